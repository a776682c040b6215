//! ZeroMQ by libzmq alone: publishers send from where they are, a reader has a thread and hands over
//! by a channel what it has read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use fabric::zmq::client::{
    Context, DONTWAIT, Error as ZmqError, Message, SNDMORE, Socket, SocketType,
};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::broker::Kind;
use crate::envelope::{self, Carries, Received, look_at};
use crate::network::{Begin, Client, Reader, Serving, Work, Working};
use crate::support::Result;

/// More messages than a round has: none may be dropped.
pub(crate) const HWM: i32 = 1_000_000;

/// How many events wait between a reader's thread and its task.
const QUEUE: usize = 1024;

/// How long a subscription may take to arrive.
const PATIENCE_MS: i32 = 10_000;

/// How often a reader's thread looks whether it is still wanted.
const GLANCE_MS: i32 = 50;

/// Who is on the other side.
#[derive(Clone)]
pub(crate) enum Net {
    /// A broker.
    Broker(Kind, Endpoints),
    /// Nobody: each client listens where the others find it.
    Peers { own: String, peers: Peers },
}

/// Where each client listens that there is, and its publishing side.
pub(crate) type Peers = Arc<Mutex<Vec<(String, Arc<Mutex<Publisher>>)>>>;

/// Where a broker listens.
#[derive(Clone, Debug)]
pub(crate) struct Endpoints {
    /// For publishers.
    pub(crate) frontend: String,
    /// For subscribers.
    pub(crate) backend: String,
}

impl Endpoints {
    /// What Fabric connects to.
    pub(crate) fn url(&self) -> String {
        let port = self.frontend.rsplit(':').next().unwrap_or_default();
        format!("zmq+{},{port}", self.backend)
    }

    /// Those of a broker at `url`.
    pub(crate) fn of(url: &str) -> Result<Self> {
        let ends = url.strip_prefix("zmq+").and_then(|url| url.split_once(','));
        let (backend, port) = ends.ok_or_else(|| format!("no URL of a broker: {url}"))?;
        let (host, _) = backend.rsplit_once(':').ok_or("no port")?;
        Ok(Self { frontend: format!("{host}:{port}"), backend: backend.to_owned() })
    }
}

pub(crate) struct ZmqRaw {
    context: Context,
    net: Net,
    carries: Carries,
    sender: Uuid,
    publisher: Arc<Mutex<Publisher>>,
    /// The process whose CPU time is measured, if it is not this one.
    measured: Option<u32>,
}

pub(crate) struct Publisher {
    socket: Socket,
    block: Vec<u8>,
    /// By topic.
    sequences: HashMap<&'static str, u64>,
}

impl ZmqRaw {
    pub(crate) fn connect(net: Net, carries: Carries) -> Result<Self> {
        let context = Context::new();
        let socket = context.socket(SocketType::XPUB)?;
        socket.set_sndhwm(HWM)?;
        socket.set_linger(0)?;
        match &net {
            Net::Broker(kind, ends) => {
                socket.connect(&ends.frontend)?;
                if *kind == Kind::Fabric {
                    // It takes everything; before it has said so, nothing would leave.
                    await_subscription(&socket, b"\x01")?;
                }
            }
            Net::Peers { own, .. } => socket.bind(own)?,
        }
        let publisher = Publisher { socket, block: Vec::new(), sequences: HashMap::new() };
        let publisher = Arc::new(Mutex::new(publisher));
        if let Net::Peers { own, peers } = &net {
            lock(peers).push((own.clone(), Arc::clone(&publisher)));
        }
        let sender = Uuid::now_v7();
        Ok(Self { context, net, carries, sender, publisher, measured: None })
    }

    /// The CPU time that counts is that of the process `pid`.
    pub(crate) fn measuring(self, pid: u32) -> Self {
        Self { measured: Some(pid), ..self }
    }

    fn send(&self, publisher: &mut Publisher, work: &Work) -> Result<(), ZmqError> {
        let Publisher { socket, block, sequences } = publisher;
        // Only the first frame finds no room; the others belong to it.
        socket.send(work.topic, DONTWAIT | SNDMORE)?;
        if self.carries == Carries::Event {
            let sequence = sequences.entry(work.topic).or_default();
            *sequence += 1;
            envelope::write(block, self.sender, *sequence, work.payload.len());
            socket.send(block.as_slice(), SNDMORE)?;
        }
        socket.send(&work.payload[..], 0)
    }

    async fn publish_next(&self, work: &Work) -> Result<()> {
        loop {
            let sent = {
                let mut publisher = lock(&self.publisher);
                self.send(&mut publisher, work)
            };
            match sent {
                Ok(()) => return Ok(()),
                Err(ZmqError::EAGAIN) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn open(&self, topic: &'static str) -> Result<ZmqReader> {
        let socket = self.context.socket(SocketType::SUB)?;
        socket.set_rcvhwm(HWM)?;
        socket.set_linger(0)?;
        match &self.net {
            Net::Broker(_, ends) => socket.connect(&ends.backend)?,
            Net::Peers { peers, .. } => {
                lock(peers).iter().try_for_each(|(end, _)| socket.connect(end))?;
            }
        }
        socket.set_subscribe(topic.as_bytes())?;
        let sync = format!("_fabric.sync.{}", Uuid::now_v7());
        socket.set_subscribe(sync.as_bytes())?;
        let heard = [&[1], sync.as_bytes()].concat();
        match &self.net {
            Net::Broker(Kind::Fabric, _) => {
                socket.set_rcvtimeo(PATIENCE_MS)?;
                while socket.recv_multipart(0)?.first().is_none_or(|it| *it != sync.as_bytes()) {}
            }
            Net::Broker(Kind::Proxy, _) => {
                await_subscription(&lock(&self.publisher).socket, &heard)?;
            }
            Net::Peers { peers, .. } => {
                for (_, publisher) in lock(peers).iter() {
                    await_subscription(&lock(publisher).socket, &heard)?;
                }
            }
        }
        socket.set_unsubscribe(sync.as_bytes())?;
        socket.set_rcvtimeo(GLANCE_MS)?;
        Ok(ZmqReader::start(socket, self.carries))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `expected` was subscribed to.
fn await_subscription(socket: &Socket, expected: &[u8]) -> Result<()> {
    socket.set_rcvtimeo(PATIENCE_MS)?;
    while socket.recv_bytes(0)? != expected {}
    Ok(())
}

impl Client for ZmqRaw {
    fn measured(&self) -> Option<u32> {
        self.measured
    }

    fn publish<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(async move {
            for _ in 0..work.events {
                self.publish_next(work).await?;
                tokio::task::coop::consume_budget().await;
            }
            Ok(())
        })
    }

    fn publish_one<'a>(&'a self, work: &'a Work) -> Working<'a, ()> {
        Box::pin(self.publish_next(work))
    }

    fn read(&self, topic: &'static str, _: Begin) -> Working<'_, Box<dyn Reader>> {
        Box::pin(async move {
            let reader: Box<dyn Reader> = Box::new(self.open(topic)?);
            Ok(reader)
        })
    }

    fn clear(&self, _: &'static str) -> Working<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn serve(&self, _: &'static str) -> Working<'_, Serving> {
        Box::pin(async { Err("libzmq has no requests between these sockets".into()) })
    }

    fn ask<'a>(&'a self, _: &'a Work) -> Working<'a, ()> {
        Box::pin(async { Err("libzmq has no requests between these sockets".into()) })
    }
}

struct ZmqReader {
    events: mpsc::Receiver<Result<Received>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
    lost: Arc<AtomicU64>,
}

impl ZmqReader {
    fn start(socket: Socket, carries: Carries) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let (stop, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = thread::spawn({
            let (stop, lost) = (Arc::clone(&stop), Arc::clone(&lost));
            move || {
                let mut last = HashMap::new();
                while !stop.load(Ordering::Relaxed) {
                    let event = match receive(&socket, carries, &mut last, &lost) {
                        Ok(Some(event)) => Ok(event),
                        Ok(None) => continue,
                        Err(failure) => Err(failure),
                    };
                    if sender.blocking_send(event).is_err() {
                        return;
                    }
                }
            }
        });
        Self { events, stop, thread: Some(thread), lost }
    }
}

/// A frame as it came.
struct Frame(Message);

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// One message, or nothing for a while; gaps in the sequence of its sender are counted.
fn receive(
    socket: &Socket,
    carries: Carries,
    last: &mut HashMap<[u8; 16], u64>,
    lost: &AtomicU64,
) -> Result<Option<Received>> {
    let mut topic = Message::new();
    match socket.recv(&mut topic, 0) {
        Ok(()) => {}
        Err(ZmqError::EAGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    if carries == Carries::Payload {
        let payload = Bytes::from_owner(Frame(socket.recv_msg(0)?));
        return Ok(Some(Received { payload, ..Received::default() }));
    }
    let block = socket.recv_msg(0)?;
    let received = envelope::read(&block, Bytes::from_owner(Frame(socket.recv_msg(0)?)))?;
    let sender: [u8; 16] = block.get(16..32).ok_or("no sender")?.try_into()?;
    let before = last.insert(sender, received.sequence).unwrap_or(received.sequence - 1);
    lost.fetch_add(received.sequence - before - 1, Ordering::Relaxed);
    Ok(Some(received))
}

impl Reader for ZmqReader {
    fn take(&mut self, events: u64) -> Working<'_, ()> {
        Box::pin(async move {
            for _ in 0..events {
                look_at(&self.events.recv().await.ok_or("the reader ended")??);
            }
            Ok(())
        })
    }

    fn close(mut self: Box<Self>) -> Working<'static, ()> {
        Box::pin(async move {
            self.stop.store(true, Ordering::Relaxed);
            self.events.close();
            if let Some(thread) = self.thread.take() {
                let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
                joined.map_err(|_| "the reader's thread panicked")?;
            }
            match self.lost.load(Ordering::Relaxed) {
                0 => Ok(()),
                lost => Err(format!("{lost} events were lost").into()),
            }
        })
    }
}
