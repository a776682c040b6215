//! The proxy in front of a program that says everything back.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use fabric_brokers::{Proxy, Slowness, Way};

/// Where somebody listens who says back what he is told, until he is told no more.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    address
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).expect("the proxy listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    stream
}

#[track_caller]
fn says_back(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("it goes out");
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).expect("it comes back");
    assert_eq!(back, text.as_bytes());
}

/// Nothing comes for a moment: too short a moment would miss a fault, and never fails for nothing.
#[track_caller]
fn says_nothing(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
    let error = stream.read(&mut [0]).expect_err("nothing comes");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
}

/// What is left until the connection ends, and whether it ended with a reset.
fn rest(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let (mut all, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return (all, false),
            Ok(count) => all.extend(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return (all, true),
            Err(error) => panic!("{error}"),
        }
    }
}

#[track_caller]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(20), "{what} never came about");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn everything_gets_through_and_is_counted() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut stream = connect(&proxy);
    says_back(&mut stream, "hello");
    says_back(&mut stream, &"long ".repeat(100_000));
    assert_eq!((proxy.open(), proxy.opened()), (1, 1));
    eventually("the count", || proxy.bytes() == 2 * (5 + 500_000));
    // An end in one direction is passed on, and what was said before it comes back.
    stream.write_all(b"bye").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(&mut stream), (b"bye".to_vec(), false));
    eventually("the end of the link", || proxy.open() == 0);
}

#[test]
fn a_reset_ends_what_is_open_and_nothing_else() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut before = connect(&proxy);
    says_back(&mut before, "before");
    proxy.reset();
    assert_eq!(rest(&mut before), (vec![], true));
    says_back(&mut connect(&proxy), "after");
    assert_eq!(proxy.opened(), 2);
}

#[test]
fn a_black_hole_holds_everything_until_it_is_healed() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut stream = connect(&proxy);
    says_back(&mut stream, "before");
    for way in [Way::Both, Way::ToBroker, Way::ToClient] {
        proxy.swallow(way);
        stream.write_all(b"into the dark").unwrap();
        says_nothing(&mut stream);
        proxy.heal();
        let mut back = [0; 13];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"into the dark");
    }
    assert_eq!(proxy.opened(), 1);
}

#[test]
fn a_black_hole_that_is_reset_ends() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut stream = connect(&proxy);
    proxy.swallow(Way::Both);
    // More than fits anywhere, so that somebody waits at every place.
    let mut writing = stream.try_clone().unwrap();
    let writer = thread::spawn(move || while writing.write_all(&[0; 65536]).is_ok() {});
    says_nothing(&mut stream);
    proxy.reset();
    writer.join().unwrap();
    eventually("the end of the link", || proxy.open() == 0);
}

#[test]
fn who_is_refused_is_refused_until_it_is_healed() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut before = connect(&proxy);
    says_back(&mut before, "before");
    proxy.refuse();
    assert!(rest(&mut before).1);
    assert_eq!(rest(&mut connect(&proxy)), (vec![], true));
    proxy.heal();
    says_back(&mut connect(&proxy), "after");
}

#[test]
fn a_cut_comes_after_so_many_bytes() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut stream = connect(&proxy);
    says_back(&mut stream, "before");
    proxy.cut_after(10);
    stream.write_all(&[7; 100]).unwrap();
    let (back, reset) = rest(&mut stream);
    assert!(back.len() <= 10 && reset, "{} bytes came back", back.len());
    assert!(proxy.bytes() <= 12 + 10, "{} bytes", proxy.bytes());
    says_back(&mut connect(&proxy), "longer than ten bytes");
}

#[test]
fn a_slow_link_takes_its_time_and_changes_nothing() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut stream = connect(&proxy);
    let latency = Duration::from_millis(50);
    proxy.slow(Slowness::default().latency(latency, Duration::ZERO));
    let since = Instant::now();
    says_back(&mut stream, "there and back");
    assert!(since.elapsed() >= 2 * latency, "{:?}", since.elapsed());
    proxy.slow(Slowness::default().bytes_per_second(100_000).slice(1000));
    let since = Instant::now();
    says_back(&mut stream, &"x".repeat(20_000));
    assert!(since.elapsed() >= Duration::from_millis(190), "{:?}", since.elapsed());
    proxy.slow(Slowness::default().slice(1));
    says_back(&mut stream, &"in pieces ".repeat(100));
    proxy.heal();
    says_back(&mut stream, "fast again");
}

#[test]
fn a_proxy_that_leads_nowhere_resets() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let proxy = Proxy::new().unwrap();
    assert!(rest(&mut connect(&proxy)).1);
    proxy.lead_to(nobody);
    assert!(rest(&mut connect(&proxy)).1);
    proxy.lead_to(echo());
    says_back(&mut connect(&proxy), "somewhere");
    let address = proxy.address();
    drop(proxy);
    eventually("the end of the proxy", || TcpStream::connect(address).is_err());
}
