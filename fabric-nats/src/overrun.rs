//! Retention that runs over a group: its members are told.
//!
//! The server drops what a stream has no room for, whether a group got it or not, and says nothing. So
//! a member that may be behind compares the group's place with the first event that is left.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fabric_core::{ErrorKind, Group, Result};

use crate::connection::Epoch;
use crate::hub::Hub;
use crate::member::Member;

/// How often a member that may be behind looks.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is looked whether a stream that kept everything drops events by now.
const RARELY: Duration = Duration::from_secs(30);

/// Up to which event of each stream, in which life of it, what is lost was told.
#[derive(Debug, Default)]
pub(crate) struct Told(HashMap<usize, (u64, u64)>);

/// What a look brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overrun {
    /// Whether any of the streams drops events.
    forgets: bool,
    /// How many were lost, at most, and not told yet.
    pub(crate) missed: u64,
}

impl Told {
    /// How many events lie between `place` and `first`, the first that is left, and were not told.
    fn missed(&mut self, stream: usize, life: u64, place: u64, first: u64) -> u64 {
        let told = self.0.get(&stream).filter(|(known, _)| *known == life).map_or(0, |(_, n)| *n);
        let before = first.saturating_sub(1);
        self.0.insert(stream, (life, before.max(told)));
        before.saturating_sub(place.max(told))
    }
}

impl Hub {
    /// How many events, at most, retention took before any member of a group got them: what lies
    /// between the group's place and the first event that is left. Where the group reads only a part
    /// of the stream it is less.
    ///
    /// # Errors
    /// `Connect`, `Timeout`.
    pub(crate) async fn overrun(
        &self,
        epoch: &Epoch,
        group: &Group,
        streams: &[usize],
        told: &mut Told,
    ) -> Result<Overrun> {
        let mut overrun = Overrun::default();
        for stream in streams {
            let name = &self.layout.streams[*stream].name;
            // The stream first: what the group is handed meanwhile was not lost.
            let info = epoch.api.stream(name).await?;
            if !info.config.forgets() {
                continue;
            }
            overrun.forgets = true;
            let place = epoch.api.consumer(name, group.as_str()).await?.delivered.stream_seq;
            let (life, first) = (info.incarnation(), info.state.first_seq);
            overrun.missed += told.missed(*stream, life, place, first);
        }
        Ok(overrun)
    }
}

/// Tells a member when retention runs over its group, as long as it is there.
pub(crate) async fn watch(hub: Arc<Hub>, member: Weak<Member>, mut told: Told) {
    let mut pause = LOOK;
    loop {
        tokio::time::sleep(pause).await;
        let Some(member) = member.upgrade().filter(|member| !member.has_left()) else { return };
        if !member.may_be_behind() {
            continue;
        }
        let (Some(epoch), streams) = (hub.link.now(), member.streams()) else { continue };
        match hub.overrun(&epoch, member.group(), &streams, &mut told).await {
            Ok(overrun) => {
                pause = if overrun.forgets { LOOK } else { RARELY };
                if overrun.missed > 0 {
                    member.lag(overrun.missed);
                }
            }
            // Its subscription finds out what became of it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::debug!(%error, "the group's place cannot be looked at"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_told_once() {
        let mut told = Told::default();
        assert_eq!(told.missed(0, 1, 10, 11), 0, "nothing lies between");
        assert_eq!(told.missed(0, 1, 10, 21), 10);
        assert_eq!(told.missed(0, 1, 10, 21), 0, "it was told");
        assert_eq!(told.missed(0, 1, 10, 26), 5);
        assert_eq!(told.missed(0, 1, 40, 61), 20);
        assert_eq!(told.missed(1, 1, 0, 3), 2, "another stream");
        assert_eq!(told.missed(0, 2, 0, 4), 3, "another life of the stream");
        assert_eq!(told.missed(0, 2, 9, 1), 0);
    }
}
