//! One pod must never ride on another's token.

use identity::{AUDIENCE_PUBLIC, Asker, Assertion, Credential, Mode, Proof, Tokens};

use crate::{
    entra::{SCOPE, client_id, federated, with_proof},
    server::{Answer, Asked, Server, asker, assertion, own_assertion, subject_of, tenant},
};

/// Entra with one federated credential, for `system:serviceaccount:shop:web`. A token made by nobody who may
/// is known by its id, as a bad signature would be.
fn entra(asked: &Asked) -> Answer {
    let shown = asked.field("client_assertion");
    if subject_of(shown) == "system:serviceaccount:shop:web" && !shown.contains(&forged_mark()) {
        return Answer::token("the victim's token");
    }
    Answer::aadsts(401, "invalid_client", 700_213, "No matching federated identity record found.")
}

/// How the id `forged` looks inside a token: claims are base64url, so the mark is the signature's.
fn forged_mark() -> String {
    data_encoding::BASE64URL_NOPAD.encode(b"a forged signature")
}

fn forged(subject: &str) -> Assertion {
    let token = crate::server::jwt(subject, AUDIENCE_PUBLIC, 3000, "forged");
    let unsigned = token.rsplit_once('.').unwrap().0;
    Assertion::new(AUDIENCE_PUBLIC.to_owned(), format!("{unsigned}.{}", forged_mark()).into(), None)
}

fn bring(server: &Server, tokens: &Tokens, who: &Asker, assertion: Assertion) -> Credential {
    let mode = Mode::WorkloadIdentity { tenant: tenant(), client_id: client_id(), assertion };
    tokens.credential(who, &server.authority(&tenant()), mode).unwrap()
}

async fn served(credential: &Credential) -> Option<String> {
    credential.token(SCOPE).await.ok().map(|token| token.token.secret().to_owned())
}

#[tokio::test]
async fn a_planted_token_of_another_subject_gets_nothing_that_is_cached() {
    let server = Server::tls(&[], entra).await;
    let tokens = server.tokens();
    let victim = federated(&server, &tokens, &asker("shop", "web"));
    assert_eq!(served(&victim).await.unwrap(), "the victim's token");
    // The attacker writes a made-up token with the victim's subject into its own volume's attributes.
    let attacker =
        bring(&server, &tokens, &asker("evil", "mallory"), forged(&asker("shop", "web").subject()));
    assert_eq!(attacker.key(), None);
    assert_eq!(served(&attacker).await, None);
    assert_eq!(server.count(), 2, "the attacker's own proof was put to the test");
}

#[tokio::test]
async fn a_planted_token_does_not_poison_the_victims_cache() {
    let server = Server::tls(&[], entra).await;
    let tokens = server.tokens();
    let attacker =
        bring(&server, &tokens, &asker("evil", "mallory"), forged(&asker("shop", "web").subject()));
    assert_eq!(served(&attacker).await, None);
    // Neither the failure nor the proof has reached the victim.
    let victim = federated(&server, &tokens, &asker("shop", "web"));
    assert_eq!(served(&victim).await.unwrap(), "the victim's token");
}

#[tokio::test]
async fn a_stolen_token_is_shared_with_nobody_else() {
    // A genuine token of the victim in another pod's hands: Entra takes it, but the node keeps it apart.
    let server = Server::tls(&[], entra).await;
    let tokens = server.tokens();
    let (shop, evil) = (asker("shop", "web"), asker("evil", "mallory"));
    let thief = bring(&server, &tokens, &evil, own_assertion(&shop));
    assert_eq!(thief.key(), None);
    assert!(served(&thief).await.is_some());
    let honest = bring(&server, &tokens, &evil, own_assertion(&evil));
    assert_eq!(served(&honest).await, None, "what the thief got is not there for others of its namespace");
    assert_eq!(tokens.stats().identities, 1);
}

#[tokio::test]
async fn the_same_client_id_from_elsewhere_is_asked_for_anew() {
    let server = Server::tls(&[], entra).await;
    let tokens = server.tokens();
    let victim = federated(&server, &tokens, &asker("shop", "web"));
    assert!(served(&victim).await.is_some());
    for (namespace, account) in [("evil", "web"), ("shop", "mallory"), ("Shop", "web"), ("", "shop/web")] {
        let other = federated(&server, &tokens, &asker(namespace, account));
        assert_ne!(other.key(), victim.key());
        assert_eq!(served(&other).await, None, "{namespace}/{account}");
    }
}

#[tokio::test]
async fn names_cannot_be_made_to_run_into_one_another() {
    let server = Server::tls(&[], entra).await;
    let tokens = server.tokens();
    let pairs = [("a", "b c"), ("a b", "c"), ("a\" \"b", "c"), ("a", "b\" \"c"), ("a\\", "b"), ("a", "\\b")];
    let mut keys: Vec<_> = pairs
        .iter()
        .map(|(namespace, account)| {
            federated(&server, &tokens, &asker(namespace, account)).key().unwrap().to_owned()
        })
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), pairs.len());
}

#[tokio::test]
async fn doubtful_assertions_share_nothing() {
    let server = Server::tls(&[], entra).await;
    let tokens = server.tokens();
    let web = asker("shop", "web");
    let subject = web.subject();
    let doubtful = [
        assertion("system:serviceaccount:shop:Web", AUDIENCE_PUBLIC, 3000, "case"),
        assertion("system:serviceaccount:shop", AUDIENCE_PUBLIC, 3000, "short"),
        assertion(&subject, "api://other", 3000, "its own audience"),
        assertion(&subject, AUDIENCE_PUBLIC, -1, "expired"),
        Assertion::new(AUDIENCE_PUBLIC.to_owned(), "not.a-jwt.".to_owned().into(), None),
        Assertion::new(AUDIENCE_PUBLIC.to_owned(), String::new().into(), None),
        Assertion::new(
            "api://AKSIdentityBinding".to_owned(),
            crate::server::jwt(&subject, AUDIENCE_PUBLIC, 3000, "filed wrongly").into(),
            None,
        ),
    ];
    for (n, assertion) in doubtful.into_iter().enumerate() {
        assert_eq!(bring(&server, &tokens, &web, assertion).key(), None, "case {n}");
    }
    let own_audience = Assertion::new(
        "api://other".to_owned(),
        crate::server::jwt(&subject, "api://other", 3000, "x").into(),
        None,
    );
    assert_eq!(bring(&server, &tokens, &web, own_audience).key(), None);
}

#[tokio::test]
async fn a_wrong_secret_gets_no_token_of_the_right_one() {
    let server = Server::tls(&[], |asked| match asked.field("client_secret") {
        "right" => Answer::token("the owner's token"),
        _ => Answer::aadsts(401, "invalid_client", 7_000_215, "Invalid client secret provided."),
    })
    .await;
    let tokens = server.tokens();
    let shop = asker("shop", "web");
    let owner = with_proof(&server, &tokens, &shop, Proof::Secret("right".to_owned().into()));
    assert_eq!(served(&owner).await.unwrap(), "the owner's token");
    // Same pod's name even, same client id, another secret.
    let thief = with_proof(&server, &tokens, &shop, Proof::Secret("wrong".to_owned().into()));
    assert_ne!(thief.key(), owner.key());
    let error = thief.token(SCOPE).await.unwrap_err();
    assert!(error.to_string().contains("secret is wrong"), "{error}");
    // And the thief's failure has not become the owner's.
    assert_eq!(served(&owner).await.unwrap(), "the owner's token");
    for key in [owner.key().unwrap(), thief.key().unwrap()] {
        assert!(!key.contains("right") && !key.contains("wrong"), "{key}");
    }
}

#[tokio::test]
async fn digests_of_secrets_differ_between_processes() {
    let server = Server::tls(&[], entra).await;
    let key = || {
        let proof = Proof::Secret("same".to_owned().into());
        with_proof(&server, &server.tokens(), &asker("shop", "web"), proof).key().unwrap().to_owned()
    };
    assert_ne!(key(), key());
}

#[tokio::test]
async fn an_identity_binding_and_a_federation_do_not_share() {
    let server = Server::tls(&[], entra).await;
    let mut config = identity::Config::new(server.client()).unwrap();
    config.token_proxy = Some(identity::TokenProxyConfig::in_cluster(443).unwrap());
    let tokens = Tokens::new(config).unwrap();
    let web = asker("shop", "web");
    let federated = federated(&server, &tokens, &web);
    let assertion = assertion(&web.subject(), identity::AUDIENCE_IDENTITY_BINDING, 3000, "bound");
    let mode = Mode::TokenProxy { tenant: tenant(), client_id: client_id(), assertion };
    let bound = tokens.credential(&web, &server.authority(&tenant()), mode).unwrap();
    assert!(bound.key().is_some());
    assert_ne!(bound.key(), federated.key());
}
