//! Who may come, and what they may do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::time::Duration;

use fabric_brokers::nats::{Access, Operator, Options, Server, User};
use fabric_brokers::{Certificates, Folder};
use fabric_core::{Dsn, Error, ErrorKind, Event, Fabric, NoticeKind, Notices, Result};
use fabric_nats::Nats;
use futures_util::StreamExt as _;
use nkeys::KeyPair;

/// What nothing may take longer than.
const WATCHDOG: Duration = Duration::from_secs(30);

async fn connect(url: &str) -> Result<Fabric> {
    Ok(Fabric::new(Nats::connect(Dsn::parse(url)?).await?))
}

async fn refused(url: &str) -> Error {
    connect(url).await.map(drop).unwrap_err()
}

/// One event passes.
async fn works(fabric: &Fabric) {
    let done = async {
        let mut events = fabric.subscribe("a").group("g").await?;
        fabric.publish(Event::to("a").text("x")).await?;
        let delivery = events.recv().await.unwrap()?;
        delivery.ack().await.map_err(Error::from)?;
        events.close().await
    };
    tokio::time::timeout(WATCHDOG, done).await.unwrap().unwrap();
}

async fn until(
    notices: &mut Notices,
    wanted: impl Fn(&NoticeKind) -> bool + Send + Sync,
) -> NoticeKind {
    let found = async {
        while let Some(notice) = notices.next().await {
            if wanted(&notice.kind) {
                return notice.kind;
            }
        }
        panic!("the notices ended")
    };
    tokio::time::timeout(WATCHDOG, found).await.unwrap()
}

/// The same address with something before and behind the server.
fn with(url: &str, user: &str, options: &str) -> String {
    format!("{}{options}", url.replace("nats://", &format!("nats://{user}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn user_password_and_token_are_asked_for() {
    let users = Access::Users(vec![User::new("me", "hunter2")]);
    let server = Server::start(Options::new().access(users)).unwrap();
    works(&connect(&with(&server.url(), "me:hunter2@", "")).await.unwrap()).await;
    for user in ["", "me:wrong@", "you:hunter2@", "token@"] {
        let error = refused(&with(&server.url(), user, "")).await;
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{user}: {error:#}");
        assert!(!format!("{error:?}").contains("hunter2"), "a secret is shown: {error:?}");
    }
    let server = Server::start(Options::new().access(Access::Token("s3cr3t".into()))).unwrap();
    works(&connect(&with(&server.url(), "s3cr3t@", "")).await.unwrap()).await;
    assert_eq!(refused(&server.url()).await.kind(), ErrorKind::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nkey_signs_also_from_a_file() {
    let pair = KeyPair::new_user();
    let users = Access::Users(vec![User::nkey(pair.public_key())]);
    let server = Server::start(Options::new().access(users)).unwrap();
    let seed = pair.seed().unwrap();
    works(&connect(&format!("{}?nkey={seed}", server.url())).await.unwrap()).await;
    let folder = Folder::new("nkey").unwrap();
    let file = folder.write("user.nk", format!("{seed}\n")).unwrap();
    let url = format!("{}?nkey_file={}", server.url(), file.display());
    works(&connect(&url).await.unwrap()).await;
    let other = KeyPair::new_user().seed().unwrap();
    let error = refused(&format!("{}?nkey={other}", server.url())).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_renewed_without_a_restart() {
    let operator = Operator::new().unwrap();
    let server = Server::start(Options::new().access(operator.access())).unwrap();
    let folder = Folder::new("creds").unwrap();
    let soon = operator.credentials(Some(Duration::from_secs(2))).unwrap();
    let file = folder.write("user.creds", soon).unwrap();
    let fabric =
        connect(&format!("{}?credentials={}", server.url(), file.display())).await.unwrap();
    let mut notices = fabric.notices();
    works(&fabric).await;
    // The server ends the connection when the credentials do; the file holds new ones by then.
    folder.write("user.creds", operator.credentials(None).unwrap()).unwrap();
    until(&mut notices, |kind| matches!(kind, NoticeKind::Lost { .. })).await;
    until(&mut notices, |kind| matches!(kind, NoticeKind::Restored)).await;
    works(&fabric).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_checked_on_both_sides_and_renewed() {
    let certificates = Certificates::new().unwrap();
    let server = Server::start(Options::new().tls(&certificates, true)).unwrap();
    let tls = server.url().replace("nats://", "tls://");
    let trusting = format!("{tls}?tls_ca={}", certificates.authority().display());
    let url = format!(
        "{trusting}&tls_cert={}&tls_key={}",
        certificates.client().display(),
        certificates.client_key().display()
    );
    let fabric = connect(&url).await.unwrap();
    let mut notices = fabric.notices();
    works(&fabric).await;
    for without in [tls.as_str(), trusting.as_str()] {
        let error = refused(without).await;
        assert_eq!(error.kind(), ErrorKind::Connect, "{error:#}");
        assert!(
            error.to_string().contains("TLS") || error.to_string().contains("server"),
            "{error}"
        );
    }
    certificates.renew().unwrap();
    server.process().stop();
    server.process().start().unwrap();
    until(&mut notices, |kind| matches!(kind, NoticeKind::Restored)).await;
    works(&fabric).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named() {
    let rights = ["$JS.>", "_INBOX.>", "_fabric.>", "fabric.open.>"];
    let user = User::new("me", "pw").publish(rights).subscribe(["_INBOX.>", "_fabric.>"]);
    let server = Server::start(Options::new().access(Access::Users(vec![user]))).unwrap();
    let fabric = connect(&with(&server.url(), "me:pw@", "")).await.unwrap();
    let open = fabric.publish(Event::to("open.a").text("x"));
    let shut = fabric.publish(Event::to("shut.a").text("x"));
    let (open, shut) =
        tokio::time::timeout(WATCHDOG, async { tokio::join!(open, shut) }).await.unwrap();
    open.unwrap();
    let error = shut.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("`fabric.shut.a`"), "{error}");
    let powerless = Access::Users(vec![User::new("me", "pw").powerless()]);
    let server = Server::start(Options::new().access(powerless)).unwrap();
    let error = refused(&with(&server.url(), "me:pw@", "")).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error:#}");
}
