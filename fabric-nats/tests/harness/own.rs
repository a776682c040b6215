//! A server of one case's own, for those that do harm: behind a proxy, and with whatever else the
//! case is to break.

use std::sync::Arc;

use fabric_brokers::conformance::{Control, Link};
use fabric_brokers::nats::{Access, Cluster, Options, Server, User};
use fabric_brokers::{Broker, Disk, Proxy};
use fabric_core::conformance::{
    BrokerCtl, Case, ChildCtl, Copies, DiskCtl, FaultCtl, RightsCtl, Tool,
};
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
    pub(crate) rights: Option<Rights>,
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
        let rights = case.tools.contains(&Tool::Rights);
        if rights {
            setup = setup.access(Access::Users(vec![everything(), ada()]));
        }
        let server = Arc::new(Server::behind(&proxies[0], setup).unwrap());
        let login = if rights { "all:all@" } else { "" };
        let direct = format!("nats://{login}{}", server.address());
        let through = format!("nats://{}", proxies[0].address());
        let options = format!("{options}&{PATIENT}");
        let (proxy, ada) = (Arc::clone(&proxies[0]), through.replace("//", "//ada:secret@"));
        let url = format!("{ada}?{options}");
        let mut own = Self::over(Arc::clone(&server), proxies, &direct, &through, &options);
        own.disk = disk.map(|disk| FullDisk { disk, server: Arc::clone(&server) });
        own.rights = rights.then_some(Rights { server, proxy, url });
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
            rights: None,
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

fn everything() -> User {
    User::new("all", "all")
}

fn ada() -> User {
    User::new("ada", "secret")
}

/// A user whose rights are taken and given back without a restart.
pub(crate) struct Rights {
    server: Arc<Server>,
    proxy: Arc<Proxy>,
    url: String,
}

impl Rights {
    /// The server looks at a user's rights when he comes, so he has to come again.
    fn set(&self, user: User) -> BoxFuture<'_, Result<()>> {
        let users = Access::Users(vec![everything(), user]);
        let (server, proxy) = (Arc::clone(&self.server), Arc::clone(&self.proxy));
        Box::pin(async move {
            let set = tokio::task::spawn_blocking(move || {
                server.reload(|options| options.access(users))?;
                proxy.reset();
                Ok(())
            });
            let set = set.await;
            set.map_err(|panic| Error::new(ErrorKind::Backend, panic.to_string()))?
                .map_err(|error| failed(&error))
        })
    }
}

impl RightsCtl for Rights {
    fn open(&self) -> BoxFuture<'_, Result<Fabric>> {
        Box::pin(connect(&self.url))
    }

    fn revoke(&self) -> BoxFuture<'_, Result<()>> {
        self.set(ada().powerless())
    }

    fn grant(&self) -> BoxFuture<'_, Result<()>> {
        self.set(ada())
    }
}

fn failed(error: &fabric_brokers::Error) -> Error {
    Error::new(ErrorKind::Backend, error.to_string())
}
