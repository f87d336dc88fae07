// SPDX-License-Identifier: Apache-2.0
//! Group `packet`: cost of the programs per packet, above an empty program. Both run on frames in
//! memory (`BPF_PROG_TEST_RUN`), in turn, with maps that were written as the agent writes them. The
//! kernel measures many runs at once and returns the average.

pub mod lookups;
pub mod one_lookup;
pub mod path;
pub mod stage;
pub mod world;

use anyhow::Result;
use netpol_agent::datapath::attach::Hook;

use self::{
    path::{Cost, Meets, Path, Side, measure as measure_path, measure_distinct},
    stage::Stage,
    world::Shape,
};
use super::{Figure, Run, Target};

const GROUP: &str = "packet";
/// Baseline of all figures in nanoseconds.
const EMPTY: &str = "empty program";
/// Target for a packet of an established connection, nanoseconds above the empty program.
const ESTABLISHED: f64 = 60.0;
/// Target for a packet that policy denies, nanoseconds above the empty program.
const DENIED: f64 = 150.0;
/// Target for the largest set, as a multiple of the smallest.
const GROWTH: f64 = 1.3;

/// Default: a cluster of a thousand pods.
const USUAL: Shape = Shape {
    peers: 1000,
    ports: 10,
};
const PEERS: [u32; 4] = [10, 1000, 10_000, 100_000];
const QUICK_PEERS: [u32; 3] = [10, 1000, 10_000];
const PORTS: [u32; 3] = [1, 10, 1000];

const HOOKS: [Hook; 2] = [Hook::FromPod, Hook::ToPod];

const SYN_NOTE: &str =
    "the same SYN again and again: each is judged anew, and replaces the flow of the one before";
const DISTINCT_NOTE: &str =
    "a thousand connections, a run each, the middle one; map `flows` has 16,384 places";
const ONE_LOOKUP_NOTE: &str = "a program that looks up one key, which is there, and nothing else: with the number of lookups of a path, what of its cost is \
                               the maps'";
const EVENT_NOTE: &str = "every drop is an event; the agent reads them after the measurement, so that its wake-up is not in it. A SYN is \
     looked up in `flows` too: what it may be to an open connection, no end says alone (rule C4)";

/// Measures the group.
///
/// # Errors
/// Root or eBPF is missing, or a packet takes another path than the one it is measured for.
pub fn measure(run: &mut Run) -> Result<()> {
    paths(run)?;
    if run.wants(GROUP, "by_peers") || run.wants(GROUP, "growth") {
        let peers: &[u32] = if run.is_quick() { &QUICK_PEERS } else { &PEERS };
        let shapes: Vec<Shape> = peers
            .iter()
            .map(|peers| Shape {
                peers: *peers,
                ..USUAL
            })
            .collect();
        by_size(run, "by_peers", "peers", &shapes, |shape| shape.peers)?;
    }
    if run.wants(GROUP, "by_ports") || run.wants(GROUP, "growth") {
        let shapes = PORTS.map(|ports| Shape { ports, ..USUAL });
        by_size(run, "by_ports", "ports", &shapes, |shape| shape.ports)?;
    }
    Ok(())
}

/// Measures every path in the usual world.
fn paths(run: &mut Run) -> Result<()> {
    let mut figures: Vec<(Path, Figure)> = all_paths()
        .into_iter()
        .map(|path| (path, describe(&path)))
        .filter(|(_, figure)| run.wants(GROUP, &figure.name))
        .collect();
    let distinct = run.wants(GROUP, "first_allowed_distinct");
    let (lookups, programs) = (run.wants(GROUP, "lookups"), run.wants(GROUP, "program"));
    let one_lookup = run.wants(GROUP, "one_lookup");
    if figures.is_empty() && !(distinct || lookups || one_lookup || programs) {
        return Ok(());
    }
    let stage = Stage::new(USUAL)?;
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); figures.len()];
    for _ in 0..run.repetitions() {
        for (costs, (path, _)) in costs.iter_mut().zip(&figures) {
            let path = *path;
            costs.push(stage.with(move |world| measure_path(world, path))?);
        }
    }
    for (costs, (path, figure)) in costs.into_iter().zip(&mut figures) {
        let figure = above_empty(figure.clone(), &costs);
        run.add(match path.meets {
            Meets::Established => figure.reaches(Target::MoreByAtMost(ESTABLISHED)),
            Meets::Deny | Meets::DenyWithEvent => figure.reaches(Target::MoreByAtMost(DENIED)),
            Meets::Accept => figure,
        });
    }
    if distinct {
        first_packets_of_many(run, &stage)?;
    }
    if lookups {
        count_lookups(run, &stage)?;
    }
    if one_lookup {
        time_lookups(run, &stage)?;
    }
    if programs {
        program_sizes(run, &stage)?;
    }
    Ok(())
}

/// Lists every path that is measured in the usual world.
pub fn all_paths() -> Vec<Path> {
    let mut paths = Vec::new();
    for hook in HOOKS {
        for ipv4 in [true, false] {
            let usual = |meets| Path {
                ipv4,
                ..Path::usual(hook, meets)
            };
            for tcp in [true, false] {
                for reply in [false, true] {
                    paths.push(Path {
                        tcp,
                        reply,
                        ..usual(Meets::Established)
                    });
                }
            }
            for meets in [Meets::Accept, Meets::Deny, Meets::DenyWithEvent] {
                paths.push(usual(meets));
            }
            for meets in [Meets::Established, Meets::Accept] {
                paths.push(Path {
                    isolated: false,
                    ..usual(meets)
                });
            }
            if hook == Hook::ToPod {
                // A packet that comes from a pod's own interface is also judged by that pod's
                // egress policy.
                for meets in [Meets::Established, Meets::Accept, Meets::Deny] {
                    paths.push(Path {
                        side: Side::Local,
                        ..usual(meets)
                    });
                }
            }
        }
    }
    paths
}

/// Makes the figure of a path, without numbers.
fn describe(path: &Path) -> Figure {
    let name = match (path.isolated, path.meets) {
        (false, _) => "not_isolated",
        (true, Meets::Established) => "established",
        (true, Meets::Accept) => "first_allowed",
        (true, Meets::Deny | Meets::DenyWithEvent) => "first_denied",
    };
    let mut figure = Figure::new(GROUP, name, "ns", Vec::new())
        .at("hook", path.hook)
        .at("family", path.family())
        .at("protocol", path.protocol());
    if path.meets == Meets::Established {
        figure = figure.at("packet", if path.reply { "reply" } else { "request" });
    } else if !path.isolated {
        figure = figure.at("packet", "first");
    }
    if path.side == Side::Local {
        figure = figure.at("peer", "same node");
    }
    match path.meets {
        Meets::Deny => figure.at("event", "no"),
        Meets::DenyWithEvent => figure.at("event", "yes").noted(EVENT_NOTE),
        Meets::Accept => figure.noted(SYN_NOTE),
        Meets::Established => figure,
    }
}

fn above_empty(mut figure: Figure, costs: &[Cost]) -> Figure {
    figure.samples = costs.iter().map(|cost| cost.path).collect();
    figure.above(EMPTY, costs.iter().map(|cost| cost.empty).collect())
}

fn first_packets_of_many(run: &mut Run, stage: &Stage) -> Result<()> {
    let cases: Vec<(Hook, bool)> = HOOKS
        .into_iter()
        .flat_map(|hook| [(hook, false), (hook, true)])
        .collect();
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); cases.len()];
    for repetition in 0..run.repetitions() as u16 {
        for ((hook, full), costs) in cases.iter().copied().zip(&mut costs) {
            let path = Path::usual(hook, Meets::Accept);
            let port = 30_000 + repetition * 1000;
            costs.push(stage.with(move |world| measure_distinct(world, path, full, port))?);
        }
    }
    for ((hook, full), costs) in cases.into_iter().zip(costs) {
        let figure = Figure::new(GROUP, "first_allowed_distinct", "ns", Vec::new())
            .at("hook", hook)
            .at("table", if full { "full" } else { "free" })
            .noted(DISTINCT_NOTE);
        run.add(above_empty(figure, &costs));
    }
    Ok(())
}

fn time_lookups(run: &mut Run, stage: &Stage) -> Result<()> {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); one_lookup::MAPS.len()];
    // Makes the flow.
    stage.with(|world| measure_path(world, Path::usual(Hook::ToPod, Meets::Established)))?;
    for _ in 0..run.repetitions() {
        for (costs, map) in costs.iter_mut().zip(one_lookup::MAPS) {
            costs.push(stage.with(move |world| one_lookup::measure(world, map))?);
        }
    }
    for (costs, map) in costs.into_iter().zip(one_lookup::MAPS) {
        let figure = Figure::new(GROUP, "one_lookup", "ns", Vec::new()).at("map", map);
        run.add(above_empty(figure.noted(ONE_LOOKUP_NOTE), &costs));
    }
    Ok(())
}

fn count_lookups(run: &mut Run, stage: &Stage) -> Result<()> {
    for path in all_paths() {
        if !path.ipv4 || !path.tcp || path.meets == Meets::DenyWithEvent {
            continue;
        }
        let counts = stage.with(move |world| {
            let state = world.bench.read()?;
            lookups::count(&state, &path.script(world)?)
        })?;
        let total: u32 = counts.values().sum();
        let words: Vec<String> = counts
            .iter()
            .map(|(map, times)| format!("{times} {map}"))
            .collect();
        let described = describe(&path);
        let mut figure = Figure::new(GROUP, "lookups", "calls", vec![total.into()])
            .at("of", described.name)
            .at("maps", words.join(" + "));
        for name in ["hook", "packet", "peer"] {
            if let Some(value) = described.parameters.get(name) {
                figure = figure.at(name, value);
            }
        }
        run.add(figure);
    }
    Ok(())
}

fn program_sizes(run: &mut Run, stage: &Stage) -> Result<()> {
    for hook in [Hook::FromPod, Hook::ToPod, Hook::ToNetwork] {
        let size = stage.with(move |world| world.bench.size(hook))?;
        let parts = [
            ("instructions", "instructions", size.instructions),
            ("machine code", "bytes", size.machine_code),
            ("seen by the verifier", "instructions", size.verified),
        ];
        for (what, unit, number) in parts {
            let figure = Figure::new(GROUP, "program", unit, vec![number.into()]);
            run.add(figure.at("hook", hook).at("what", what));
        }
    }
    Ok(())
}

/// Measures paths in worlds of different sizes, and compares the largest with the smallest.
fn by_size(
    run: &mut Run,
    name: &str,
    parameter: &str,
    shapes: &[Shape],
    size: fn(&Shape) -> u32,
) -> Result<()> {
    let mut paths = Vec::new();
    for hook in HOOKS {
        for ipv4 in [true, false] {
            for meets in [Meets::Established, Meets::Accept, Meets::Deny] {
                paths.push(Path {
                    ipv4,
                    ..Path::usual(hook, meets)
                });
            }
        }
    }
    let stages = shapes
        .iter()
        .map(|shape| Stage::new(*shape))
        .collect::<Result<Vec<_>>>()?;
    let mut costs = vec![vec![Vec::new(); stages.len()]; paths.len()];
    for _ in 0..run.repetitions() {
        for (path, costs) in paths.iter().copied().zip(&mut costs) {
            for (stage, costs) in stages.iter().zip(costs) {
                costs.push(stage.with(move |world| measure_path(world, path))?);
            }
        }
    }
    for (path, costs) in paths.iter().zip(&costs) {
        let figure = |name: &str, unit: &str| {
            Figure::new(GROUP, name, unit, Vec::new())
                .at("hook", path.hook)
                .at("family", path.family())
                .at("of", path.meets)
        };
        for (shape, costs) in shapes.iter().zip(costs) {
            run.add(above_empty(figure(name, "ns").at(parameter, size(shape)), costs));
        }
        if let ([smallest, .., largest], [first, .., last]) = (shapes, &costs[..]) {
            let own = |costs: &[Cost]| costs.iter().map(|cost| cost.path - cost.empty).collect();
            let mut figure = figure("growth", "ns above the empty program");
            figure.samples = own(last);
            let title = format!("{parameter}={}", size(smallest));
            run.add(
                figure
                    .at(parameter, size(largest))
                    .against(&title, own(first))
                    .reaches(Target::RatioAtMost(GROWTH)),
            );
        }
    }
    Ok(())
}
