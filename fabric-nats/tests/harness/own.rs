//! A server of one case's own, for those that do harm: behind a proxy, and with whatever else the
//! case is to break.

use std::sync::Arc;

use fabric_brokers::conformance::{Control, Link};
use fabric_brokers::nats::{Cluster, Options, Server};
use fabric_brokers::{Broker, Disk, Proxy};
use fabric_core::conformance::{BrokerCtl, Case, ChildCtl, Copies, DiskCtl, FaultCtl, Tool};
use fabric_core::{Dsn, Error, ErrorKind, Fabric, Result};
use fabric_nats::Nats;
use futures_core::future::BoxFuture;

/// What a client needs to notice an outage soon, and to outlast it.
const PATIENT: &str = "ping_interval=300ms&reconnect_max=500ms&confirm_timeout=60s";

/// A server, or three, and what does it harm.
pub(crate) struct Own {
    pub(crate) url: String,
    pub(crate) broker: Box<dyn BrokerCtl>,
    pub(crate) link: Link,
    pub(crate) children: Copies,
    pub(crate) disk: Option<FullDisk>,
}

impl Own {
    /// What `case` needs, with clients of these options.
    pub(crate) fn for_case(case: &Case, options: &'static str, nodes: usize) -> Self {
        let proxies: Vec<Arc<Proxy>> =
            (0..nodes).map(|_| Arc::new(Proxy::new().unwrap())).collect();
        if nodes > 1 {
            let each = proxies.iter().map(|proxy| &**proxy);
            let cluster = Cluster::behind(each, &Options::new()).unwrap();
            let direct: Vec<String> =
                cluster.servers().iter().map(|server| server.address().to_string()).collect();
            let (url, through) = (format!("nats://{}", direct.join(",")), cluster.url());
            // A client that hears of the others would go around the proxies, or through them.
            let options = format!("{options}&{PATIENT}&request_timeout=20s&discover=false");
            return Self::over(Arc::new(cluster), proxies, &url, &through, &options);
        }
        let disk = case.tools.contains(&Tool::Disk).then(|| Arc::new(Disk::new(64).unwrap()));
        let mut setup = Options::new();
        if let Some(disk) = &disk {
            setup = setup.disk(Arc::clone(disk));
        }
        let server = Arc::new(Server::behind(&proxies[0], setup).unwrap());
        let direct = format!("nats://{}", server.address());
        let through = format!("nats://{}", proxies[0].address());
        let options = format!("{options}&{PATIENT}");
        let mut own = Self::over(Arc::clone(&server), proxies, &direct, &through, &options);
        own.disk = disk.map(|disk| FullDisk { disk, server });
        own
    }

    fn over<B: Broker>(
        broker: Arc<B>,
        proxies: Vec<Arc<Proxy>>,
        direct: &str,
        through: &str,
        options: &str,
    ) -> Self {
        let through = format!("{through}?{options}");
        Self {
            url: format!("{direct}?{options}"),
            broker: Box::new(Control::new(broker)),
            link: Link::new(proxies, move || {
                let url = through.clone();
                async move { connect(&url).await }
            }),
            children: Copies::new().with_env("FABRIC_TEST_NATS_URL", direct),
            disk: None,
        }
    }

    pub(crate) fn children(&self) -> &dyn ChildCtl {
        &self.children
    }

    pub(crate) fn fault(&self) -> &dyn FaultCtl {
        &self.link
    }
}

pub(crate) async fn connect(url: &str) -> Result<Fabric> {
    Ok(Fabric::new(Nats::connect(Dsn::parse(url)?).await?))
}

/// A disk, and the server that keeps its streams there.
pub(crate) struct FullDisk {
    disk: Arc<Disk>,
    server: Arc<Server>,
}

impl DiskCtl for FullDisk {
    fn fill(&self) -> BoxFuture<'_, Result<()>> {
        let filled = self.disk.fill();
        Box::pin(async { filled.map_err(|error| failed(&error)) })
    }

    fn free(&self) -> BoxFuture<'_, Result<()>> {
        let (disk, server) = (Arc::clone(&self.disk), Arc::clone(&self.server));
        Box::pin(async move {
            let freed = tokio::task::spawn_blocking(move || {
                disk.free()?;
                // The server does not use JetStream again by itself after its disk was full.
                server.process().stop();
                server.process().start()
            });
            freed
                .await
                .map_err(|panic| Error::new(ErrorKind::Backend, panic.to_string()))?
                .map_err(|error| failed(&error))
        })
    }
}

fn failed(error: &fabric_brokers::Error) -> Error {
    Error::new(ErrorKind::Backend, error.to_string())
}
