//! The whole run: scene by scene, row by row, round by round.

use std::{
    collections::BTreeMap,
    panic::{self, AssertUnwindSafe},
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use overlay_tests::{leftovers, turns};

use crate::{
    clock::Clock,
    interrupt,
    machine::{self, Machine},
    peers::{self, Peer, Stage},
    plan::{Options, Plan},
    programs::{Cost, Loaded},
    report::{Absent, Measured, Report, table},
    rounds::Round,
    rows::{Row, Scene},
};

/// A row is given up after this many times the rounds that it shall have.
const MOST_TRIES: usize = 2;
/// Rows under whose loads the cost of our programs is looked at: together they run all that packets between containers
/// can meet.
const PROGRAM_ROWS: [&str; 5] = ["tcp", "udp64", "udp-gso", "xdp-filter-udp64", "xdp-decap-udp64"];

/// Measures, writes the reports and prints one.
pub fn run(options: &Options) -> Result<()> {
    let plan = Plan::new(options)?;
    interrupt::catch()?;
    let links = leftovers::machine_links();
    let report = Bench::new(&plan, options).measure()?;
    let left = leftovers::of_this_process();
    ensure!(left.is_empty(), "something was left behind: {left:?}; `cargo xtask clean` removes it");
    ensure!(leftovers::machine_links() == links, "the machine's own devices are not what they were");
    report.write(&options.out)?;
    println!("{}", if options.json { report.json()? } else { table::text(&report) });
    ensure!(!report.is_without(Peer::Overlay), "our own peer could not be built: see the end of the report");
    Ok(())
}

/// Peers that are up.
type Stages = BTreeMap<Peer, Stage>;

struct Bench<'a> {
    plan: &'a Plan,
    options: &'a Options,
    clock: Clock,
    bar: ProgressBar,
    rows_left: usize,
}

impl<'a> Bench<'a> {
    fn new(plan: &'a Plan, options: &'a Options) -> Self {
        let runs =
            plan.rows.iter().map(|row| plan.rounds_of(row) * peers_of(plan, row.scene).len()).sum::<usize>();
        let bar = ProgressBar::new(runs as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} ({elapsed}) {wide_msg}") {
            bar.set_style(style);
        }
        Self { plan, options, clock: Clock::start(plan.limit), bar, rows_left: plan.rows.len() }
    }

    fn measure(mut self) -> Result<Report> {
        let machine = Machine::look(self.options.docker_root.as_deref());
        let mut report = Report::new(machine, self.plan);
        for scene in Scene::ALL {
            let rows: Vec<Row> = self.plan.rows.iter().filter(|row| row.scene == scene).copied().collect();
            if !rows.is_empty() {
                self.scene(scene, &rows, &mut report)?;
            }
        }
        report.judge();
        self.bar.finish_and_clear();
        Ok(report)
    }

    fn scene(&mut self, scene: Scene, rows: &[Row], report: &mut Report) -> Result<()> {
        let loaded = Loaded::now()?;
        let stages = self.build(scene, report)?;
        if let Some(bare) = stages.get(&Peer::Bare) {
            report.offloads.insert(scene, machine::offloads(&bare.across.server)?);
        }
        for row in rows {
            let rounds = self.row(row, &stages)?;
            stages.values().for_each(|stage| stage.servers.stop());
            report.rows.push(Measured::new(row, rounds));
        }
        report.programs.extend(self.costs(rows, &stages, &loaded)?);
        Ok(())
    }

    /// Builds the peers; one that cannot be had is left out, with the reason. Docker comes last, as its engines are the
    /// only ones that keep working when nobody asks them to.
    fn build(&self, scene: Scene, report: &mut Report) -> Result<Stages> {
        let mut stages = Stages::new();
        let mut peers = peers_of(self.plan, scene);
        peers.sort_by_key(|&peer| peer == Peer::Docker);
        for peer in peers {
            self.bar.set_message(format!("building {peer}"));
            interrupt::check()?;
            match self.build_peer(peer, scene) {
                Ok(stage) => drop(stages.insert(peer, stage)),
                Err(e) => report.absent.push(Absent { scene, peer, reason: format!("{e:#}") }),
            }
        }
        Ok(stages)
    }

    fn build_peer(&self, peer: Peer, scene: Scene) -> Result<Stage> {
        if let Some(reason) = self.options.docker_missing.as_ref().filter(|_| peer == Peer::Docker) {
            bail!("{reason}");
        }
        caught(|| peers::build(peer, scene.setting(), self.options.docker_root.as_deref()))
    }

    /// Measures a row until it has its rounds, or its time is over. Where there is a peer, there is a round.
    fn row(&mut self, row: &Row, stages: &Stages) -> Result<Vec<Round>> {
        let end = self.clock.share(self.rows_left);
        self.rows_left -= 1;
        let peers: Vec<Peer> = stages.keys().copied().collect();
        let wanted = self.plan.rounds_of(row);
        let (mut rounds, mut steady) = (Vec::new(), 0);
        while steady < wanted && rounds.len() < MOST_TRIES * wanted {
            if !rounds.is_empty() && Instant::now() > end {
                break;
            }
            let round = self.round(row, rounds.len(), &peers, stages)?;
            steady += usize::from(round.is_steady());
            rounds.push(round);
        }
        self.bar.inc((wanted * peers_of(self.plan, row.scene).len()) as u64);
        Ok(rounds)
    }

    fn round(&self, row: &Row, number: usize, peers: &[Peer], stages: &Stages) -> Result<Round> {
        Round::run(turns::order(number, Peer::Bare, peers), |peer| {
            interrupt::check()?;
            self.bar.set_message(format!("{}: round {}, {peer}", row.title, number + 1));
            caught(|| row.measure(&stages[&peer], self.plan.duration))
        })
        .with_context(|| format!("cannot measure {:?}", row.title))
    }

    fn costs(&self, rows: &[Row], stages: &Stages, loaded: &Loaded) -> Result<Vec<Cost>> {
        let Some(stage) = stages.get(&Peer::Overlay) else { return Ok(Vec::new()) };
        let mut costs = Vec::new();
        for row in rows.iter().filter(|row| PROGRAM_ROWS.contains(&row.id)) {
            self.bar.set_message(format!("cost of the programs: {}", row.title));
            costs.extend(loaded.costs_since(row, stage, self.plan.duration)?);
        }
        Ok(costs)
    }
}

/// The harness panics where a test would have failed; here that is an error.
fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map_or("no reason given", String::as_str);
        Err(anyhow!("{text}"))
    })
}

/// The peers of a scene that were asked for.
fn peers_of(plan: &Plan, scene: Scene) -> Vec<Peer> {
    plan.peers.iter().copied().filter(|peer| scene.peers().contains(peer)).collect()
}
