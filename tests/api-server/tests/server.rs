//! The fixture itself.

use api_server::ApiServer;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, ObjectMeta, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

#[tokio::test]
async fn it_serves_keeps_strangers_out_knows_the_crds_and_writes_requests_down() {
    let Some(server) = ApiServer::start().await.unwrap() else { return };
    let namespace = server.namespace("fixture").await.unwrap();
    let admin = server.client().await.unwrap();

    let config = ConfigMap {
        metadata: ObjectMeta { name: Some("a".to_owned()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    };
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), &namespace);
    maps.create(&PostParams::default(), &config).await.unwrap();

    let stranger: Api<ConfigMap> = Api::namespaced(server.client_as("stranger").await.unwrap(), &namespace);
    let refused = stranger.get("a").await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.is_forbidden()), "{refused}");

    let kubeconfig = Kubeconfig::read_from(server.kubeconfig_of(&namespace, "sa").await.unwrap()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let account: Api<ConfigMap> = Api::namespaced(Client::try_from(config).unwrap(), &namespace);
    let refused = account.get("a").await.unwrap_err().to_string();
    assert!(refused.contains(&format!("system:serviceaccount:{namespace}:sa")), "{refused}");

    let kind = GroupVersionKind::gvk("secrets-store.csi.x-k8s.io", "v1", "SecretProviderClass");
    let classes: Api<DynamicObject> = Api::namespaced_with(admin, &namespace, &ApiResource::from_gvk(&kind));
    assert!(classes.list(&ListParams::default()).await.unwrap().items.is_empty());

    let mine: Vec<_> =
        server.requests().unwrap().into_iter().filter(|one| one.namespace == namespace).collect();
    let maps = mine
        .iter()
        .filter(|one| one.resource == "configmaps")
        .map(|one| (&*one.verb, &*one.user, &*one.user_agent));
    let account = format!("system:serviceaccount:{namespace}:sa");
    assert_eq!(
        maps.collect::<Vec<_>>(),
        [("create", "admin", ""), ("get", "admin", "stranger"), ("get", account.as_str(), "")]
    );
}

#[tokio::test]
async fn tests_at_the_same_time_share_one() {
    let Some(first) = ApiServer::shared().await.unwrap() else { return };
    let second = ApiServer::shared().await.unwrap().unwrap();
    assert_eq!(first.url(), second.url());
    assert_ne!(first.namespace("shared").await.unwrap(), second.namespace("shared").await.unwrap());
}
