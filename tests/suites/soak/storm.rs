// SPDX-License-Identifier: Apache-2.0
//! The events, one after the other, from a seed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use netpol_tests::{node::Site, random::Random};

use super::{
    diary::pause,
    guests::{Couple, Left},
    ward::{Stranger, Ward},
    world::{CLIENT, SERVER, SWING, World, policy},
};

/// The first events, one of each kind that befalls the agent: numbers of [`Storm::blow`].
const FIRST: [usize; 5] = [0, 3, 5, 6, 8];

/// How long the stranger may need to reach an open swing.
const REACHES: Duration = Duration::from_secs(5);

/// Couples of guests at a time.
const COUPLES: usize = 3;

/// How many events of each kind there were.
#[derive(Debug, Default)]
pub struct Counts {
    pub changes: u64,
    pub kills: u64,
    pub kills_in_a_start: u64,
    pub kills_in_changes: u64,
    pub stops: u64,
    pub versions: u64,
    pub counters: u64,
    pub swings: u64,
    pub left: Left,
}

/// Makes the events.
pub struct Storm<'a> {
    pub world: &'a mut World,
    pub random: Random,
    pub strangers: Vec<(&'a Site, &'a Stranger)>,
    pub swing: &'a Arc<Ward>,
    pub counts: Counts,
    couples: Vec<Couple>,
    arrived: u64,
    /// Events so far.
    blown: usize,
    /// True while the swing is closed.
    is_closed: bool,
}

impl<'a> Storm<'a> {
    pub fn new(
        world: &'a mut World,
        seed: u64,
        strangers: Vec<(&'a Site, &'a Stranger)>,
        swing: &'a Arc<Ward>,
    ) -> Self {
        Self {
            world,
            random: Random(seed),
            strangers,
            swing,
            counts: Counts::default(),
            couples: Vec::new(),
            arrived: 0,
            blown: 0,
            is_closed: true,
        }
    }

    /// Makes one event of any kind, and waits until it took effect.
    pub fn blow(&mut self) -> Result<()> {
        let random = self.random.below(15);
        let number = FIRST.get(self.blown).copied().unwrap_or(random);
        self.blown += 1;
        match number {
            0..=2 => self.killed(),
            3 | 4 => self.killed_in_changes(),
            5 => self.stopped(),
            6 | 7 => self.other_version(),
            8 => self.other_counters(),
            _ => self.breathe(),
        }
    }

    /// Makes one event that leaves the agent alone.
    pub fn breathe(&mut self) -> Result<()> {
        match self.random.below(8) {
            0 | 1 => self.swings(),
            2 | 3 => {
                self.change()?;
                self.world.settle()
            }
            _ => self.guests(),
        }
    }

    /// Writes a change that leaves allowed what was.
    fn change(&mut self) -> Result<()> {
        self.counts.changes += 1;
        let random = &mut self.random;
        let manifests = &self.world.manifests;
        match random.below(5) {
            0 | 1 => {
                let rules = random.below(SERVER.len());
                self.world.diary.event(format!("rules {rules} of the server"));
                manifests.write("server.yaml", &policy("server", SERVER[rules]))
            }
            2 => {
                let rules = random.below(CLIENT.len());
                self.world.diary.event(format!("rules {rules} of the client"));
                manifests.write("client.yaml", &policy("client", CLIENT[rules]))
            }
            3 => {
                let (low, high) = (random.below(200), 10 + random.below(3));
                self.world.diary.event("a policy of others");
                let rules = format!(
                    "ingress: [{{from: [{{ipBlock: {{cidr: 10.244.0.{high}/32}}}}, {{ipBlock: {{cidr: 203.0.{low}.0/24, \
                     except: [203.0.{low}.7/32]}}}}]}}]\n  egress: []"
                );
                manifests.write("others.yaml", &policy("nobody", &rules))
            }
            _ => {
                let (pod, turn) = (["client", "server"][random.below(2)], random.below(3));
                self.world.diary.event(format!("labels of the {pod}"));
                self.world
                    .announce(&format!("shop/{pod}"), pod, &format!(", turn: \"{turn}\""))
            }
        }
    }

    /// Some milliseconds.
    fn a_while(&mut self, below: usize) -> Duration {
        Duration::from_micros(self.random.below(below * 1000) as u64)
    }

    fn killed(&mut self) -> Result<()> {
        self.counts.kills += 1;
        let wait = self.a_while(100);
        pause(wait);
        self.world.diary.event("killed");
        self.world.end_life(true)?;
        self.starts()
    }

    fn killed_in_changes(&mut self) -> Result<()> {
        self.counts.kills_in_changes += 1;
        for _ in 0..1 + self.random.below(12) {
            self.change()?;
            let wait = self.a_while(15);
            pause(wait);
        }
        let wait = self.a_while(60);
        pause(wait);
        self.world.diary.event("killed while things change");
        self.world.end_life(true)?;
        if self.random.below(2) == 0 {
            self.change()?;
        }
        self.starts()
    }

    fn stopped(&mut self) -> Result<()> {
        self.counts.stops += 1;
        self.world.diary.event("stopped");
        self.world.end_life(false)?;
        self.starts()
    }

    fn other_version(&mut self) -> Result<()> {
        self.counts.versions += 1;
        let by_kill = self.random.below(2) == 0;
        self.world.diary.event("another version");
        self.world.end_life(by_kill)?;
        self.world.change_version()?;
        self.starts()
    }

    fn other_counters(&mut self) -> Result<()> {
        self.counts.counters += 1;
        self.world.diary.event("another version of counters and events");
        self.world.end_life(false)?;
        self.world.change_counters()?;
        self.starts()
    }

    /// Starts the agent; it may be killed during that a few times.
    fn starts(&mut self) -> Result<()> {
        for _ in 0..self.random.below(4) {
            self.counts.kills_in_a_start += 1;
            self.world.agent.relaunch()?;
            let wait = self.a_while(300);
            pause(wait);
            self.world
                .diary
                .event(format!("killed {wait:?} after it was started"));
            self.world.agent.kill()?;
            self.world.keep_log();
        }
        self.world.diary.event("started");
        self.world.start_life()
    }

    /// Opens the swing to the stranger, or closes it.
    fn swings(&mut self) -> Result<()> {
        self.counts.swings += 1;
        let rules = SWING[usize::from(!self.is_closed)];
        if self.is_closed {
            self.world.diary.event("the swing opens");
            self.arrived = self.swing.came();
            self.swing.open();
            self.world
                .manifests
                .write("swing.yaml", &policy("swing", rules))?;
            self.world.settle()?;
        } else {
            let until = Instant::now() + REACHES;
            while self.swing.came() == self.arrived && Instant::now() < until {
                pause(Duration::from_millis(10));
            }
            self.world.diary.event("the swing closes");
            self.world
                .manifests
                .write("swing.yaml", &policy("swing", rules))?;
            if self.random.below(3) == 0 {
                let wait = self.a_while(20);
                pause(wait);
                self.world.diary.event("killed while the swing closes");
                self.world.end_life(true)?;
                self.starts()?;
            } else {
                self.world.settle()?;
            }
            self.swing.close();
            // What never comes when it may would prove nothing when it may not.
            if self.swing.came() == self.arrived {
                self.world
                    .diary
                    .fault("nothing of the stranger came to the swing while it might");
            }
        }
        self.is_closed = !self.is_closed;
        Ok(())
    }

    fn guests(&mut self) -> Result<()> {
        let which = self.random.below(COUPLES);
        if which >= self.couples.len() {
            self.arrived_guests()?;
            return Ok(());
        }
        if !self.couples[which].goes_on(self.world, &mut self.random)? {
            let couple = self.couples.swap_remove(which);
            couple.goes(
                self.world,
                &mut self.random,
                &self.strangers,
                &mut self.counts.left,
            )?;
        }
        Ok(())
    }

    fn arrived_guests(&mut self) -> Result<()> {
        let number = self.counts.left.couples + self.couples.len() as u64 + 1;
        let couple = Couple::comes(self.world, number, &self.couples, &self.strangers)?;
        self.couples.push(couple);
        Ok(())
    }

    /// Lets all guests go.
    pub fn empty(&mut self) -> Result<()> {
        for couple in std::mem::take(&mut self.couples) {
            couple
                .goes(
                    self.world,
                    &mut self.random,
                    &self.strangers,
                    &mut self.counts.left,
                )
                .context("when all guests go")?;
        }
        Ok(())
    }
}
