// SPDX-License-Identifier: Apache-2.0
//! Pods that come and go, in couples: first their interfaces, which strict mode closes, then their
//! objects or the other way round. They talk to each other. Nobody else may reach them from the
//! moment that they are closed, until they are gone.

use std::sync::Arc;

use anyhow::{Context, Result};
use netpol_tests::{node::Site, random::Random};
use serde_json::Value;

use super::{
    traffic::{BUSY, Talk, wait_for_the_wire},
    ward::{Stranger, Ward, Watch},
    world::{World, file_of, of_pod},
};

/// Host numbers of guests. There are few, so that addresses are used again soon.
const HOSTS: std::ops::Range<u16> = 40..50;

/// How far a couple is.
enum Stage {
    /// Its interfaces are there.
    Came,
    /// They are closed, and there is no object.
    Closed,
    /// Its connections are open.
    Talking(Talk),
}

struct Guest {
    site: Site,
    host: u16,
    ward: Arc<Ward>,
    watch: Watch,
}

/// Two guests that talk to each other.
pub struct Couple {
    guests: [Guest; 2],
    stage: Option<Stage>,
}

/// What a couple leaves behind.
#[derive(Debug, Default)]
pub struct Left {
    /// Couples that came.
    pub couples: u64,
    /// Messages of their connections.
    pub messages: u64,
    /// Denied packets that came before a guest was closed.
    pub early: u64,
}

impl Couple {
    /// Lets the interfaces of the next couple come, with addresses that no other has.
    pub fn comes(
        world: &mut World,
        number: u64,
        others: &[Self],
        strangers: &[(&Site, &Stranger)],
    ) -> Result<Self> {
        let taken = others
            .iter()
            .flat_map(|couple| couple.guests.each_ref().map(|guest| guest.host));
        let taken: Vec<u16> = taken.collect();
        let mut free = HOSTS.cycle_from(number).filter(|host| !taken.contains(host));
        let mut pods = Vec::new();
        for end in ["a", "b"] {
            let host = free.next().context("no address is free")?;
            pods.push((format!("shop/guest-{number}-{end}"), host));
        }
        world.diary.event(format!("guests {number} come"));
        let sites = world.add_interfaces(&pods)?;
        let mut guests = Vec::new();
        for (site, (_, host)) in sites.into_iter().zip(pods) {
            let from: Vec<&Site> = strangers.iter().map(|(site, _)| *site).collect();
            let ward = Ward::new(site.clone(), &from, &world.diary);
            let watch = ward.watch()?;
            for (_, stranger) in strangers {
                stranger.aim(&site);
            }
            guests.push(Guest {
                site,
                host,
                ward,
                watch,
            });
        }
        let guests = <[Guest; 2]>::try_from(guests).ok().context("two guests")?;
        Ok(Self {
            guests,
            stage: Some(Stage::Came),
        })
    }

    /// Goes on to the next stage. Returns false if only leaving is left.
    pub fn goes_on(&mut self, world: &mut World, random: &mut Random) -> Result<bool> {
        let [a, b] = &self.guests;
        let next = match self.stage.take().context("it is gone")? {
            Stage::Came if random.below(3) > 0 => {
                world
                    .diary
                    .event(format!("{} and its other are closed", a.site.name));
                for guest in [a, b] {
                    let veth = world.node.veth(&guest.site.name)?.to_owned();
                    world.wait_for("a closed interface", |status| {
                        let closed = status["hooks"]["closed"].as_array();
                        closed.is_some_and(|closed| closed.iter().any(|name| *name == *veth))
                    })?;
                    guest.ward.close();
                }
                Stage::Closed
            }
            Stage::Came | Stage::Closed => {
                world
                    .diary
                    .event(format!("{} and its other are known", a.site.name));
                for guest in [a, b] {
                    world.announce(&guest.site.name, "guest", "")?;
                }
                world.settle()?;
                for guest in [a, b] {
                    world.wait_for(&guest.site.name, |status| {
                        of_pod(status, &guest.site.name).is_some_and(|pod| pod["state"] == "enforced")
                    })?;
                    guest.ward.close();
                }
                wait_for_the_wire(&a.site, &b.site)?;
                Stage::Talking(Talk::open(&a.site, &b.site, BUSY, &world.diary)?)
            }
            talking @ Stage::Talking(_) => {
                self.stage = Some(talking);
                return Ok(false);
            }
        };
        self.stage = Some(next);
        Ok(true)
    }

    /// Lets it go: the objects first, or the interfaces, with or without an agent that sees it.
    pub fn goes(
        self,
        world: &mut World,
        random: &mut Random,
        strangers: &[(&Site, &Stranger)],
        left: &mut Left,
    ) -> Result<()> {
        let name = self.guests[0].site.name.clone();
        let known = matches!(self.stage, Some(Stage::Talking(_)));
        if let Some(Stage::Talking(talk)) = self.stage {
            world.diary.event(format!("{name} and its other end to talk"));
            left.messages += talk.end_whole().context("between guests")?;
        }
        let objects_first = random.below(2) == 0;
        let unseen = random.below(4) == 0;
        if unseen {
            world.diary.event("killed before guests go");
            world.end_life(true)?;
        }
        let names = self.guests.each_ref().map(|guest| guest.site.name.clone());
        let remove_objects = |world: &World| -> Result<()> {
            names
                .iter()
                .filter(|_| known)
                .try_for_each(|name| world.manifests.remove(&file_of(name)))
        };
        let none = |status: &Value| names.iter().all(|name| of_pod(status, name).is_none());
        if objects_first {
            world.diary.event(format!("the objects of {name} go"));
            remove_objects(world)?;
            if !unseen {
                world.wait_for("no pod", none)?;
            }
        }
        for guest in self.guests {
            // What was closed is, up to its last moment.
            let _ = guest.watch.finish()?;
            world.diary.event(format!("{} goes", guest.site.name));
            world.node.remove_pod(&guest.site.name)?;
            for (_, stranger) in strangers {
                stranger.spare(&guest.site);
            }
            left.early += guest.ward.came();
        }
        if !objects_first {
            world.diary.event(format!("the objects of {name} go last"));
            remove_objects(world)?;
        }
        if unseen {
            world.start_life()?;
        }
        world.wait_for("no pod", none)?;
        left.couples += 1;
        Ok(())
    }
}

/// Host numbers from one on, each once.
trait CycleFrom {
    fn cycle_from(self, first: u64) -> impl Iterator<Item = u16>;
}

impl CycleFrom for std::ops::Range<u16> {
    fn cycle_from(self, first: u64) -> impl Iterator<Item = u16> {
        let skip = (2 * first % self.len() as u64) as usize;
        let length = self.len();
        self.cycle().skip(skip).take(length)
    }
}
