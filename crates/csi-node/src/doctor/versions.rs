//! Versions: the running driver, this program, and the chart that put the driver on the node.

use super::finding::{Check, Finding};
use crate::build_info::{CHART_VERSION, VERSION};

/// Whether the three are of one version. A chart and the driver it is for have the same number.
pub(super) fn compare(driver: Option<&str>, chart: Option<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let image = driver.unwrap_or(VERSION);
    if image != VERSION {
        findings.push(Finding::warning(
            Check::Version,
            format!("the driver is {image}, this program is {VERSION}"),
            "use the akv-csi in the driver's own container: kubectl exec … -c secrets-store -- /akv-csi doctor",
        ));
    }
    match chart {
        Some(chart) if chart != image => findings.push(Finding::warning(
            Check::Version,
            format!(
                "the chart is {chart}, and the image that it runs is {image}: flags, permissions, CRDs and alerts are those of \
                 {chart}"
            ),
            format!(
                "install chart and image of one version: helm upgrade to chart {image}, or leave image.tag and image.digest to \
                 chart {chart}"
            ),
        )),
        Some(chart) if findings.is_empty() => {
            findings.push(Finding::ok(Check::Version, format!("driver, doctor and chart are all {chart}")));
        }
        Some(_) => {}
        None => {
            if findings.is_empty() {
                findings
                    .push(Finding::ok(Check::Version, format!("driver and doctor are both {VERSION}")));
            }
            findings.push(Finding::skipped(
                Check::Version,
                format!("the driver's DaemonSet does not say of which chart it is: {CHART_VERSION} is not set"),
                Some("deploy it by the chart or the manifests of this version, which set it"),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn each_of_the_three_is_told_when_it_differs() {
        let told = |driver, chart| -> Vec<_> {
            let findings = compare(driver, chart);
            assert!(
                findings.iter().all(|finding| finding.verdict == Verdict::Ok || finding.cure.is_some()),
                "{findings:?}"
            );
            findings.into_iter().map(|finding| (finding.verdict, finding.text)).collect()
        };
        let here = Some(VERSION);
        let all = format!("driver, doctor and chart are all {VERSION}");
        assert_eq!(told(here, here), [(Verdict::Ok, all)]);
        let newer = told(here, Some("9.0.0"));
        assert!(newer[0].1.contains("the chart is 9.0.0, and the image that it runs is "), "{newer:?}");
        assert_eq!((newer.len(), newer[0].0), (1, Verdict::Warning));
        let foreign = told(Some("8.0.0"), Some("8.0.0"));
        assert_eq!(foreign.len(), 1, "{foreign:?}");
        assert!(foreign[0].1.starts_with("the driver is 8.0.0, this program is "), "{foreign:?}");
        assert_eq!(told(Some("8.0.0"), Some("9.0.0")).len(), 2);
        let unknown = told(here, None);
        assert_eq!(
            unknown.iter().map(|(verdict, _)| *verdict).collect::<Vec<_>>(),
            [Verdict::Ok, Verdict::Skipped]
        );
        assert!(unknown[1].1.contains("AKV_CSI_CHART_VERSION"), "{unknown:?}");
        // In the container of a driver that does not answer.
        assert_eq!(told(None, Some("9.0.0")).len(), 1);
    }
}
