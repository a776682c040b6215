//! A server with a user who has the rights that the page lists, and no others.

use std::sync::OnceLock;

use fabric_brokers::nats::{Access, Options, Server, User};

/// The page of the backend.
const PAGE: &str = include_str!("../../README.md");

/// The address of that user on that server.
pub(crate) fn url(options: &str) -> String {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let (publish, subscribe) = listed();
        let user = User::new("least", "pw").publish(publish).subscribe(subscribe);
        Server::start(Options::new().access(Access::Users(vec![user]))).unwrap()
    });
    format!("{}?{options}", server.url().replace("nats://", "nats://least:pw@"))
}

/// What the page says one may publish to, and subscribe to.
fn listed() -> (Vec<&'static str>, Vec<&'static str>) {
    let (_, rights) = PAGE.split_once("## Rights").unwrap();
    let block = rights.split("```").nth(1).unwrap();
    let (publish, subscribe) = block.split_once("subscribe:").unwrap();
    let subjects = |text: &'static str| -> Vec<&'static str> {
        // What has no dot is the explanation.
        text.split_whitespace().filter(|word| word.contains('.')).collect()
    };
    (subjects(publish), subjects(subscribe))
}
