# Writes images without a daemon; sourced by the scripts that need one.
# shellcheck shell=bash

# oci_image OUT NAME ARCHITECTURE ROOTFS ENTRYPOINT [VERSION COMMIT]: one layer from a folder, as a tar that `ctr images import`,
# `podman load` and `docker load` take. The same folder gives the same bytes. ENTRYPOINT is a JSON list. VERSION and COMMIT become
# labels, and SOURCE_DATE_EPOCH the date.
oci_image() {
    local out=$1 name=$2 architecture=$3 rootfs=$4 entrypoint=$5 version=${6:-} commit=${7:-}
    local work layer diff config manifest size created labels
    work=$(mktemp -d)
    mkdir -p "$work/blobs/sha256"
    # blob FILE: moves it to where its digest says, and prints the digest.
    blob() {
        local digest
        digest=$(sha256sum "$1" | cut -d' ' -f1)
        mv "$1" "$work/blobs/sha256/$digest"
        printf '%s' "$digest"
    }
    reproducible=(--sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar)
    tar "${reproducible[@]}" -C "$rootfs" -cf "$work/layer" .
    diff=$(sha256sum "$work/layer" | cut -d' ' -f1)
    gzip -n "$work/layer"
    size=$(stat -c %s "$work/layer.gz")
    layer=$(blob "$work/layer.gz")

    created=$(date --utc --date="@${SOURCE_DATE_EPOCH:-0}" +%FT%TZ)
    labels='{}'
    if [ -n "$version" ]; then
        labels=$(printf '{"org.opencontainers.image.version":"%s","org.opencontainers.image.revision":"%s"}' "$version" "$commit")
    fi
    printf '{"created":"%s","architecture":"%s","os":"linux","config":{"Entrypoint":%s,"Env":["PATH=/bin"],"Labels":%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"%s","created_by":"akv-csi"}]}' \
        "$created" "$architecture" "$entrypoint" "$labels" "$diff" "$created" >"$work/config"
    local config_size
    config_size=$(stat -c %s "$work/config")
    config=$(blob "$work/config")
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:%s","size":%s}]}' \
        "$config" "$config_size" "$layer" "$size" >"$work/manifest"
    local manifest_size
    manifest_size=$(stat -c %s "$work/manifest")
    manifest=$(blob "$work/manifest")

    # containerd knows images by their full name.
    local full=$name
    case $name in */*) ;; *) full=docker.io/library/$name ;; esac
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"platform":{"os":"linux","architecture":"%s"},"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
        "$manifest" "$manifest_size" "$architecture" "$full" "${name##*:}" >"$work/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$work/oci-layout"
    # For docker before 25, which reads no OCI layout.
    printf '[{"Config":"blobs/sha256/%s","RepoTags":["%s"],"Layers":["blobs/sha256/%s"]}]' "$config" "$name" "$layer" >"$work/manifest.json"
    mkdir -p "$(dirname "$out")"
    tar "${reproducible[@]}" -C "$work" -cf "$out.new" oci-layout index.json manifest.json blobs
    mv "$out.new" "$out"
    rm -rf "$work"
}
