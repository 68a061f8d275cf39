"""Links from the guide to files of the repository: they have to exist, and become plain names on the site, which does not carry them."""

import logging
import pathlib
import re

log = logging.getLogger("mkdocs.hooks.sources")
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<path>\.\./[^)#]+)(#[^)]*)?\)")
ROOT = pathlib.Path(__file__).resolve().parents[2]


def on_page_markdown(markdown, *, page, config, files):
    def plain(match):
        target = (ROOT / "docs" / page.file.src_uri).parent / match["path"]
        if not target.exists():
            log.warning("%s links to %s, which does not exist", page.file.src_uri, match["path"])
        return match["text"]

    return LINK.sub(plain, markdown)
