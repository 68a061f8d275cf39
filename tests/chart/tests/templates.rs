//! What the chart renders, and what it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use chart::{Objects, helm, render, values};
use csi_node::cli::{Cli, Command};
use serde_json::{Value, json};

/// Renders with these arguments; ends the test where there is no Helm.
macro_rules! rendered {
    ($($argument:expr),* $(,)?) => {{
        let Some(helm) = helm() else { return };
        render(helm, &[$($argument),*]).unwrap()
    }};
}

/// The refusal of these arguments.
macro_rules! refused {
    ($($argument:expr),* $(,)?) => {{
        let Some(helm) = helm() else { return };
        render(helm, &[$($argument),*]).expect_err("this must be refused")
    }};
}

fn hooks(objects: &Objects) -> Vec<&str> {
    let hooks = objects.all().iter().filter(|object| object["kind"] == "Job");
    hooks.map(|job| job["metadata"]["annotations"]["helm.sh/hook"].as_str().unwrap()).collect()
}

fn volume_names(objects: &Objects) -> Vec<&str> {
    let volumes = objects.daemon_set()["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    volumes.iter().map(|volume| volume["name"].as_str().unwrap()).collect()
}

#[test]
fn by_default_it_is_one_container_with_the_names_people_rely_on() {
    let objects = rendered!();
    assert_eq!(
        objects.names(),
        [
            "ServiceAccount secrets-store-csi-driver",
            "ClusterRole secretproviderclasses-role",
            "ClusterRole secretproviderclasses-admin-role",
            "ClusterRole secretproviderclasses-viewer-role",
            "ClusterRole secretproviderclasspodstatuses-viewer-role",
            "ClusterRoleBinding secretproviderclasses-rolebinding",
            "DaemonSet secrets-store-csi-driver",
            "CSIDriver secrets-store.csi.k8s.io",
        ]
    );
    let daemon_set = objects.daemon_set();
    assert_eq!(daemon_set["spec"]["selector"]["matchLabels"], json!({"app": "secrets-store-csi-driver"}));
    assert_eq!(daemon_set["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
    let container = objects.container();
    assert_eq!(container["name"], "secrets-store");
    assert_eq!(container["image"], "akv-csi:0.1.0");
    let ports: Vec<_> = container["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| (port["name"].as_str().unwrap(), port["containerPort"].as_u64().unwrap()))
        .collect();
    assert_eq!(ports, [("healthz", 9808), ("metrics", 8095)]);
    assert_eq!(container["livenessProbe"]["httpGet"], json!({"path": "/healthz", "port": "healthz"}));
    assert_eq!(container["securityContext"], json!({"privileged": true, "readOnlyRootFilesystem": true}));
    assert_eq!(objects.flag("--enable-secret-rotation"), Some("false"));
    assert_eq!(
        objects.flag("--kubelet-registration-path"),
        Some("/var/lib/kubelet/plugins/csi-secrets-store/csi.sock")
    );
    assert_eq!(hooks(&objects), ["pre-delete", "pre-install,pre-upgrade"]);
    driver_takes(&objects);
}

#[test]
fn mounts_reach_the_pods() {
    let objects = rendered!();
    let mounts = objects.container()["volumeMounts"].as_array().unwrap();
    let pods = mounts.iter().find(|mount| mount["name"] == "mountpoint-dir").unwrap();
    assert_eq!(
        (&pods["mountPath"], &pods["mountPropagation"]),
        (&json!("/var/lib/kubelet/pods"), &json!("Bidirectional"))
    );
}

#[test]
fn sockets_of_other_providers_are_found_where_they_are_today() {
    let objects = rendered!();
    assert_eq!(objects.flag("--provider-volume"), Some("/var/run/secrets-store-csi-providers"));
    assert_eq!(
        objects.flag("--additional-provider-volume-paths"),
        Some("/etc/kubernetes/secrets-store-csi-providers")
    );
    assert_eq!(objects.flag("--max-call-recv-msg-size"), Some("4194304"));
    assert_eq!(volume_names(&objects)[3..], ["providers-dir", "providers-dir-0"]);
    let same = rendered!("--set", "linux.providersDir=/p,linux.additionalProvidersDirs={/p,/q}");
    assert_eq!(same.flag("--additional-provider-volume-paths"), Some("/p,/q"));
    assert_eq!(volume_names(&same)[3..], ["providers-dir", "providers-dir-1"], "a folder is mounted once");
    let none = rendered!("--set", "linux.providersDir=,linux.additionalProvidersDirs=null");
    assert_eq!(volume_names(&none).len(), 3);
}

#[test]
fn the_csi_driver_object_can_be_made_of_the_one_of_today() {
    let objects = rendered!("--kube-version", "1.34.0");
    // attachRequired and volumeLifecycleModes are immutable.
    assert_eq!(
        objects.get("CSIDriver", "")["spec"],
        json!({
            "podInfoOnMount": true, "attachRequired": false, "volumeLifecycleModes": ["Ephemeral"],
            "requiresRepublish": true, "fsGroupPolicy": "File",
            "tokenRequests": [{"audience": "api://AzureADTokenExchange"}, {"audience": "api://AKSIdentityBinding"}]
        })
    );
}

#[test]
fn tokens_come_as_secrets_where_the_cluster_can() {
    let in_secrets =
        |objects: &Objects| objects.get("CSIDriver", "")["spec"]["serviceAccountTokenInSecrets"].clone();
    assert_eq!(in_secrets(&rendered!("--kube-version", "1.35.0")), true);
    assert_eq!(in_secrets(&rendered!("--kube-version", "v1.36.2-aks.1")), true);
    assert_eq!(
        in_secrets(&rendered!("--kube-version", "1.35.0", "--set", "serviceAccountTokenInSecrets=false")),
        Value::Null
    );
    // The API server refuses the field without tokens.
    assert_eq!(
        in_secrets(&rendered!("--kube-version", "1.35.0", "--set-json", "tokenRequests=[]")),
        Value::Null
    );
}

#[test]
fn the_driver_has_the_rights_its_code_names_and_no_others() {
    let objects = rendered!("--set", "startupTaint=a/b,syncSecret.enabled=true");
    let mut granted = Vec::new();
    for role in ["secretproviderclasses-role", "secretprovidersyncing-role"] {
        for rule in objects.get("ClusterRole", role)["rules"].as_array().unwrap() {
            let mut verbs: Vec<_> =
                rule["verbs"].as_array().unwrap().iter().map(|verb| verb.as_str().unwrap()).collect();
            verbs.sort_unstable();
            granted.push(format!("{}: [{}]", rule["resources"][0].as_str().unwrap(), verbs.join(", ")));
        }
    }
    assert_eq!(
        granted,
        [
            "secretproviderclasses: [get, list, watch]",
            "secretproviderclasspodstatuses: [create, get, list, update, watch]",
            "events: [create, patch]",
            "pods: [get]",
            "serviceaccounts: [get]",
            "nodes: [get, patch]",
            "secrets: [create, get, patch]",
        ]
    );
}

#[test]
fn rights_grow_with_what_is_switched_on() {
    let secrets = |objects: &Objects| {
        let all = objects.all().iter().filter(|object| object["kind"] == "ClusterRole");
        let rules = all.flat_map(|role| role["rules"].as_array().unwrap());
        rules.filter(|rule| rule["resources"] == json!(["secrets"])).count()
    };
    let nodes =
        |objects: &Objects| objects.get("ClusterRole", "classes-role")["rules"].to_string().contains("nodes");
    let off = rendered!();
    assert_eq!((secrets(&off), nodes(&off)), (0, false));
    let on = rendered!("--set", "syncSecret.enabled=true", "--set", "startupTaint=a/b");
    assert_eq!((secrets(&on), nodes(&on)), (1, true));
    assert_eq!(on.flag("--startup-taint"), Some("a/b"));
    assert_eq!(
        on.get("ClusterRoleBinding", "syncing-rolebinding")["roleRef"]["name"],
        "secretprovidersyncing-role"
    );
    let none = rendered!("--set", "rbac.install=false");
    assert_eq!(none.names(), ["DaemonSet secrets-store-csi-driver", "CSIDriver secrets-store.csi.k8s.io"]);
    // Without their rights, the hooks would fail.
    assert!(hooks(&none).is_empty());
}

#[test]
fn spans_go_nowhere_unless_a_collector_is_named() {
    assert_eq!(rendered!().flag("--otlp-endpoint"), None);
    // As a release of an earlier chart has it, whose values an upgrade reuses.
    assert_eq!(rendered!("--set", "otlp=null").flag("--otlp-endpoint"), None);
    let named = rendered!("--set", "otlp.endpoint=http://collector:4318");
    assert_eq!(named.flag("--otlp-endpoint"), Some("http://collector:4318"));
    for wrong in ["collector:4318", "https://user:password@collector"] {
        let error = refused!("--set", &format!("otlp.endpoint={wrong}"));
        assert!(error.contains("otlp"), "{error}");
    }
}

#[test]
fn hooks_have_no_rights_on_the_node_and_few_in_the_cluster() {
    let objects = rendered!("--set", "linux.crds.podLabels.team=a", "--set", "linux.crds.annotations.a=b");
    for name in ["upgrade-crds", "check-unused"] {
        let job = objects.get("Job", name);
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["containers"][0]["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(pod["containers"][0]["image"], objects.container()["image"]);
        // Its pods must not be taken for the DaemonSet's.
        assert_ne!(job["spec"]["template"]["metadata"]["labels"]["app"], "secrets-store-csi-driver");
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["team"], "a");
    }
    assert_eq!(objects.get("Job", "upgrade-crds")["metadata"]["annotations"]["a"], "b");
    assert_eq!(
        objects.get("ClusterRole", "check-unused")["rules"],
        json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}])
    );
    let off = rendered!("--set", "linux.crds.enabled=false", "--set", "preDeleteCheck.enabled=false");
    assert!(hooks(&off).is_empty());
}

#[test]
fn the_default_values_of_the_driver_chart_are_taken() {
    let objects = rendered!("--values", &values("driver-1.6.0.yaml"));
    assert_eq!(objects.container()["image"], "akv-csi:0.1.0");
    assert_eq!(objects.container()["resources"]["limits"], json!({"cpu": "200m", "memory": "200Mi"}));
    assert_eq!(objects.daemon_set()["spec"]["template"]["spec"]["priorityClassName"], Value::Null);
    assert_eq!(objects.get("CSIDriver", "")["spec"]["tokenRequests"], Value::Null);
}

#[test]
fn the_default_values_of_the_umbrella_chart_are_taken() {
    let objects = rendered!("--values", &values("provider-azure-1.8.2.yaml"));
    assert_eq!(objects.container()["image"], "akv-csi:0.1.0");
    assert_eq!(objects.container()["resources"]["limits"], json!({"memory": "256Mi"}));
    assert_eq!(objects.flag("--metrics-addr"), Some(":8080"));
    assert_eq!(objects.flag("--prometheus-port"), Some("8898"), "where the provider's metrics were");
    assert_eq!(objects.flag("--rotation-poll-interval"), Some("2m"));
    driver_takes(&objects);
    assert_eq!(objects.daemon_set()["metadata"]["name"], "secrets-store-csi-driver");
}

#[test]
fn nested_values_win_over_those_at_top_level() {
    let objects = rendered!("--values", &values("user-umbrella.yaml"));
    let pod = &objects.daemon_set()["spec"]["template"]["spec"];
    assert_eq!(objects.container()["image"], "akv-csi:0.1.0");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod["nodeSelector"], json!({"agentpool": "apps", "kubernetes.io/os": "linux"}));
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "registry"}]));
    assert_eq!(objects.flag("--enable-secret-rotation"), Some("true"));
    assert_eq!(objects.flag("--rotation-poll-interval"), Some("5m"));
    assert_eq!(objects.flag("-v"), Some("2"));
    assert!(objects.find("ClusterRole", "secretprovidersyncing-role").is_some());
    assert_eq!(objects.daemon_set()["spec"]["template"]["metadata"]["labels"]["team"], "platform");
    // Both programs' volumes are needed by the one that takes their place.
    assert!(volume_names(&objects).contains(&"cloud"));
}

#[test]
fn nested_false_wins_over_true() {
    let both =
        ["--set", "syncSecret.enabled=true", "--set", "secrets-store-csi-driver.syncSecret.enabled=false"];
    let objects = rendered!(both[0], both[1], both[2], both[3]);
    assert!(objects.find("ClusterRole", "secretprovidersyncing-role").is_none());
    let port = rendered!("--set", "secrets-store-csi-driver.metricsAddr=:8080");
    assert_eq!(port.flag("--prometheus-port"), None, "the driver chart has no such value");
    let none = rendered!("--set", "secrets-store-csi-driver.linux.enabled=false");
    assert!(none.find("DaemonSet", "").is_none());
}

#[test]
fn names_at_top_level_are_the_providers_beside_a_nested_block() {
    let objects = rendered!(
        "--set",
        "fullnameOverride=provider,nameOverride=provider,secrets-store-csi-driver.logVerbosity=1"
    );
    assert_eq!(objects.daemon_set()["metadata"]["name"], "secrets-store-csi-driver");
    assert_eq!(objects.daemon_set()["spec"]["selector"]["matchLabels"]["app"], "secrets-store-csi-driver");
    let own = rendered!("--set", "fullnameOverride=mine,nameOverride=app");
    assert_eq!(own.daemon_set()["metadata"]["name"], "mine");
    assert_eq!(own.daemon_set()["spec"]["selector"]["matchLabels"]["app"], "app");
}

#[test]
fn a_users_values_for_the_driver_chart_keep_their_meaning() {
    let objects = rendered!("--values", &values("user-driver.yaml"));
    let pod = &objects.daemon_set()["spec"]["template"];
    assert_eq!(objects.flag("--enable-secret-rotation"), Some("true"));
    assert!(objects.find("ClusterRole", "secretprovidersyncing-role").is_none(), "\"false\" is false");
    assert_eq!(
        objects.get("CSIDriver", "")["spec"]["tokenRequests"],
        json!([{"audience": "api://AzureADTokenExchange", "expirationSeconds": 3600}])
    );
    assert_eq!(
        objects.flag("--kubelet-registration-path"),
        Some("/data/kubelet/plugins/csi-secrets-store/csi.sock")
    );
    assert_eq!(objects.container()["volumeMounts"][2]["mountPath"], "/data/kubelet/pods");
    assert_eq!(objects.container()["ports"][1]["containerPort"], 9095);
    assert_eq!(
        objects.container()["resources"],
        json!({"limits": {"cpu": 1, "memory": "512Mi"}, "requests": {"cpu": "10m", "memory": "32Mi"}})
    );
    assert!(
        objects.container()["env"]
            .as_array()
            .unwrap()
            .contains(&json!({"name": "HTTPS_PROXY", "value": "http://proxy:3128"}))
    );
    assert_eq!(
        pod["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/enable-ds-eviction"],
        "false"
    );
    assert_eq!(pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"], "secrets-store");
    assert!(objects.all().iter().all(|object| object["metadata"]["labels"]["cost-centre"] == "42"));
}

#[test]
fn the_arc_extensions_proxy_is_used_and_kept_in_secrets() {
    let objects = rendered!("--values", &values("arc.yaml"));
    let pod = &objects.daemon_set()["spec"]["template"]["spec"];
    assert_eq!(
        objects.get("Secret", "-proxy")["stringData"]["HTTPS_PROXY"],
        "http://user:pass%2C@proxy.example.com:3128"
    );
    assert_eq!(
        objects.container()["envFrom"],
        json!([{"secretRef": {"name": "secrets-store-csi-driver-proxy"}}])
    );
    assert!(!objects.daemon_set().to_string().contains("pass%2C"));
    assert!(
        objects.get("Secret", "-proxy-cert")["stringData"]["proxy-cert.crt"]
            .as_str()
            .unwrap()
            .starts_with("-----BEGIN")
    );
    let trust = json!({"name": "SSL_CERT_FILE", "value": "/etc/akv-csi/proxy/proxy-cert.crt"});
    assert!(objects.container()["env"].as_array().unwrap().contains(&trust));
    assert!(volume_names(&objects).contains(&"proxy-cert"));
    assert_eq!((&pod["dnsPolicy"], &pod["tolerations"]), (&Value::Null, &Value::Null));
}

#[test]
fn the_driver_is_told_of_which_chart_it_is() {
    let objects = rendered!("--set", "image.tag=9.9.9");
    let chart = json!({"name": "AKV_CSI_CHART_VERSION", "value": env!("CARGO_PKG_VERSION")});
    assert!(objects.container()["env"].as_array().unwrap().contains(&chart));
}

#[test]
fn windows_gets_nothing() {
    let objects = rendered!("--set", "windows.enabled=true");
    assert_eq!(objects.all().iter().filter(|object| object["kind"] == "DaemonSet").count(), 1);
}

#[test]
fn own_settings_become_flags() {
    let objects = rendered!(
        "--set",
        "cloudName=AzureUSGovernmentCloud,constructPEMChain=false,writeCertAndKeyInSeparateFiles=true,logFormatJSON=true",
        "--set",
        "vmIdentityNamespaces={shop,bank},allowedTenants={t1},allowedClouds={}",
        "--set",
        "tokenProxyURL=https://proxy,sniName=s,mountFreshness=1s,staleIfError=2h,publishTimeout=50s,volume.size=134217728,volume.noexec=true",
        "--set",
        "livenessProbe.port=19808,linux.customUserAgent=a b,extraArgs={--admin-socket=/csi/a.sock}",
    );
    for (flag, value) in [
        ("--cloud-name", "AzureUSGovernmentCloud"),
        ("--construct-pem-chain", "false"),
        ("--write-cert-and-key-in-separate-files", "true"),
        ("--log-format-json", "true"),
        ("--vm-identity-namespaces", "shop,bank"),
        ("--allowed-tenants", "t1"),
        ("--allowed-clouds", ""),
        ("--token-proxy-url", "https://proxy"),
        ("--sni-name", "s"),
        ("--mount-freshness", "1s"),
        ("--stale-if-error", "2h"),
        ("--publish-timeout", "50s"),
        ("--volume-size", "134217728"),
        ("--volume-noexec", "true"),
        ("--health-addr", ":19808"),
        ("--custom-user-agent", "a b"),
        ("--admin-socket", "/csi/a.sock"),
    ] {
        assert_eq!(objects.flag(flag), Some(value), "{flag}");
    }
    driver_takes(&objects);
}

/// The driver itself takes the arguments, and each has an effect.
fn driver_takes(objects: &Objects) {
    let line = ["akv-csi"].into_iter().chain(objects.arguments()).map(Into::into);
    let Command::Node(node) = Cli::read(line).unwrap().command else { panic!("not the node driver") };
    assert_eq!(node.retired.given(), Vec::<&str>::new());
}

#[test]
fn the_image_is_chosen_by_tag_or_digest() {
    let tagged = rendered!("--set", "image.repository=r/akv-csi,image.tag=v9");
    assert_eq!(tagged.container()["image"], "r/akv-csi:v9");
    let digest = format!("sha256:{}", "0".repeat(64));
    let pinned =
        rendered!("--set", &format!("image.repository=r/akv-csi,image.tag=v9,image.digest={digest}"));
    assert_eq!(pinned.container()["image"], format!("r/akv-csi@{digest}"));
}

#[test]
fn a_pod_monitor_selects_the_drivers_pods() {
    let objects = rendered!(
        "--set",
        "podMonitor.enabled=true,podMonitor.labels.release=prometheus,podMonitor.interval=1m"
    );
    let monitor = objects.get("PodMonitor", "");
    let labels = &objects.daemon_set()["spec"]["template"]["metadata"]["labels"];
    for (name, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(labels[name], *value, "{name}");
    }
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(monitor["spec"]["podMetricsEndpoints"], json!([{"port": "metrics", "interval": "1m"}]));
}

#[test]
fn typing_errors_are_refused_by_name() {
    for (argument, words) in [
        ("enableSecretRotatoin=true", "'enableSecretRotatoin' not allowed"),
        ("linux.tolerationss=1", "'/linux': additional properties 'tolerationss' not allowed"),
        (
            "secrets-store-csi-driver.linux.foo=1",
            "'/secrets-store-csi-driver/linux': additional properties 'foo'",
        ),
        (
            "secrets-store-csi-driver.image.tag=1",
            "'/secrets-store-csi-driver': additional properties 'image'",
        ),
        ("enableSecretRotation=yes", "'/enableSecretRotation'"),
        ("rotationPollInterval=5", "'/rotationPollInterval'"),
        ("linux.metricsAddr=8095", "'/linux/metricsAddr'"),
        ("volume.size=64Mi", "'/volume/size'"),
        ("image.digest=abc", "'/image/digest'"),
    ] {
        let message = refused!("--set", argument);
        assert!(message.contains(words), "{argument}: {message}");
    }
}

#[test]
fn a_values_file_may_keep_anchors() {
    let objects = rendered!("--set", "x-common.tolerations=a,_own=b");
    assert_eq!(objects.daemon_set()["spec"]["template"]["spec"]["hostNetwork"], true);
}

#[test]
fn reused_values_of_another_chart_are_explained() {
    // What --reuse-values leaves of this chart's defaults when the release was another chart's: nothing.
    let message = refused!("--set", "image=null");
    assert!(message.contains("--reset-then-reuse-values"), "{message}");
}
