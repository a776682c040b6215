//! Servers that are one.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::{Options, Server};
use crate::broker::Broker;
use crate::{Error, Port, Process, Proxy, Result};

/// How long a cluster may take to be whole.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running cluster; dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
    monitors: Vec<Port>,
    _routes: Vec<Port>,
}

impl Cluster {
    /// Starts `size` servers and waits until they are one.
    ///
    /// # Errors
    /// If there is no program, or they do not start or find each other.
    pub fn start(size: usize, options: &Options) -> Result<Self> {
        Self::with(&vec![options.clone(); size])
    }

    /// As many as there are proxies, each behind one: clients hear of the proxies alone.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn behind<'a>(
        proxies: impl IntoIterator<Item = &'a Proxy>,
        options: &Options,
    ) -> Result<Self> {
        let proxies: Vec<&Proxy> = proxies.into_iter().collect();
        let each = |proxy: &&Proxy| options.clone().advertise(proxy.address());
        let cluster = Self::with(&proxies.iter().map(each).collect::<Vec<_>>())?;
        for (proxy, server) in proxies.iter().zip(&cluster.servers) {
            proxy.lead_to(server.address());
        }
        Ok(cluster)
    }

    fn with(options: &[Options]) -> Result<Self> {
        let reserve = || options.iter().map(|_| Port::reserve()).collect::<Result<Vec<_>>>();
        let (routes, monitors) = (reserve()?, reserve()?);
        let urls: Vec<String> =
            routes.iter().map(|port| format!("nats://{}", port.address())).collect();
        // Each on a thread of its own: one that waits for the others must not keep them waiting.
        let servers = thread::scope(|scope| {
            let starting: Vec<_> = options
                .iter()
                .zip(routes.iter().zip(&monitors))
                .enumerate()
                .map(|(n, (options, (route, monitor)))| {
                    let options = options
                        .clone()
                        .setting(format!("server_name: n{}", n + 1))
                        .setting(format!("http: \"{}\"", monitor.address()))
                        .setting(format!(
                            "cluster {{ name: fabric, listen: \"{}\", routes: {urls:?} }}",
                            route.address()
                        ));
                    scope.spawn(move || Server::start(options))
                })
                .collect();
            let started = starting.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Error::new("starting a server failed")))
            });
            started.collect::<Result<Vec<_>>>()
        })?;
        let cluster = Self { servers, monitors, _routes: routes };
        cluster.until_ready()?;
        Ok(cluster)
    }

    /// What to connect to: every server.
    #[must_use]
    pub fn url(&self) -> String {
        let all: Vec<String> = self.servers.iter().map(Server::url).collect();
        let hosts: Vec<&str> = all.iter().map(|url| url.trim_start_matches("nats://")).collect();
        format!("nats://{}", hosts.join(","))
    }

    /// Its servers; they are called `n1`, `n2` and so on.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Which server leads the cluster, if one does.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        self.servers.iter().enumerate().find_map(|(n, server)| {
            let running = server.process().is_running();
            let said = running.then(|| ask(self.monitors[n].address(), "/jsz").ok())??;
            let name = field(field_of(&said, "\"meta_cluster\"")?, "\"leader\"")?;
            name.strip_prefix('n')?.parse::<usize>().ok()?.checked_sub(1)
        })
    }

    /// Which server leads a stream, if one does.
    #[must_use]
    pub fn stream_leader(&self, stream: &str) -> Option<usize> {
        self.servers.iter().enumerate().find_map(|(n, server)| {
            let running = server.process().is_running();
            let path = "/jsz?accounts=true&streams=true";
            let said = running.then(|| ask(self.monitors[n].address(), path).ok())??;
            let detail = field_of(&said, "\"stream_detail\"")?;
            let stream = field_of(detail, &format!("\"name\": \"{stream}\""))?;
            let name = field(field_of(stream, "\"cluster\"")?, "\"leader\"")?;
            name.strip_prefix('n')?.parse::<usize>().ok()?.checked_sub(1)
        })
    }

    /// Whether every server knows the same leader, which sees all others up to date, and has all
    /// that its streams and consumers have.
    fn is_whole(&self) -> bool {
        let is_well = |monitor: &Port| {
            ask(monitor.address(), "/healthz").is_ok_and(|said| said.contains("\"status\":\"ok\""))
        };
        let said: Vec<String> = self
            .monitors
            .iter()
            .map_while(|monitor| ask(monitor.address(), "/jsz").ok())
            .filter_map(|said| field_of(&said, "\"meta_cluster\"").map(str::to_owned))
            .collect();
        let leaders: HashSet<&str> =
            said.iter().filter_map(|said| field(said, "\"leader\"")).collect();
        let current = |said: &String| said.matches("\"current\": true").count();
        said.len() == self.servers.len()
            && leaders.len() == 1
            && said.iter().any(|said| current(said) == self.servers.len() - 1)
            && !said.iter().any(|said| said.contains("\"offline\": true"))
            && self.monitors.iter().all(is_well)
    }
}

impl Broker for Cluster {
    fn processes(&self) -> Vec<&Process> {
        self.servers.iter().map(Server::process).collect()
    }

    fn wipe(&self) -> Result<()> {
        self.servers.iter().for_each(|server| server.process().kill());
        self.servers.iter().try_for_each(Server::forget)?;
        self.servers.iter().try_for_each(|server| server.process().start())?;
        self.until_ready()
    }

    fn until_ready(&self) -> Result<()> {
        let since = Instant::now();
        while !self.is_whole() {
            if since.elapsed() > PATIENCE {
                return Err(Error::new("the servers of a cluster do not find each other"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// What a monitoring port answers.
fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What follows `name`.
fn field_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split_once(name).map(|(_, rest)| rest)
}

/// The first text of that name.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    field_of(text, name)?.split('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_read_from_what_the_server_says() {
        let said = "{ \"streams\": 1,\n \"meta_cluster\": {\n \"name\": \"fabric\",\n \
            \"leader\": \"n2\",\n \"cluster_size\": 3 } }";
        assert_eq!(field(field_of(said, "\"meta_cluster\"").unwrap(), "\"leader\""), Some("n2"));
        assert_eq!(field_of("{}", "\"meta_cluster\""), None);
    }
}
