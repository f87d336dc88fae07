// SPDX-License-Identifier: Apache-2.0
//! Reduces steps that fail: fewer steps, then shorter and simpler frames.

use super::play::Step;

/// Removes what `fails` does not need. It must hold for `steps`.
pub fn shrink(mut steps: Vec<Step>, mut fails: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    let mut chunk = steps.len().div_ceil(2);
    while chunk > 0 {
        let mut start = 0;
        while start < steps.len() && steps.len() > 1 {
            let end = (start + chunk).min(steps.len());
            let fewer = [&steps[..start], &steps[end..]].concat();
            if !fewer.is_empty() && fails(&fewer) {
                steps = fewer;
            } else {
                start = end;
            }
        }
        chunk /= 2;
    }
    for index in 0..steps.len() {
        shorten(&mut steps, index, &mut fails);
        blank(&mut steps, index, &mut fails);
    }
    steps
}

/// Replaces a step's frame if the steps still fail. The evaluator's verdict does not hold for
/// another frame, so a failure of that kind is kept as it is.
fn attempt(
    steps: &mut [Step],
    index: usize,
    frame: Vec<u8>,
    fails: &mut impl FnMut(&[Step]) -> bool,
) -> bool {
    let before = std::mem::replace(&mut steps[index].frame, frame);
    let truth = steps[index].truth.take();
    let holds = fails(steps);
    if !holds {
        steps[index].frame = before;
        steps[index].truth = truth;
    }
    holds
}

fn shorten(steps: &mut [Step], index: usize, fails: &mut impl FnMut(&[Step]) -> bool) {
    let mut chunk = steps[index].frame.len() / 2;
    while chunk > 0 {
        let mut end = steps[index].frame.len();
        while end >= chunk {
            let mut frame = steps[index].frame.clone();
            frame.drain(end - chunk..end);
            attempt(steps, index, frame, fails);
            end -= chunk;
        }
        chunk /= 2;
    }
}

fn blank(steps: &mut [Step], index: usize, fails: &mut impl FnMut(&[Step]) -> bool) {
    for at in 0..steps[index].frame.len() {
        if steps[index].frame[at] != 0 {
            let mut frame = steps[index].frame.clone();
            frame[at] = 0;
            attempt(steps, index, frame, fails);
        }
    }
}

#[cfg(test)]
mod tests {
    use netpol_agent::datapath::attach::Hook;

    use super::*;
    use crate::progrun::Met;

    fn step(frame: &[u8]) -> Step {
        Step {
            met: Met {
                hook: Hook::ToPod,
                ifindex: 1,
                ingress_ifindex: 2,
                tag: 0,
            },
            frame: frame.to_vec(),
            truth: None,
            asks_tag: false,
        }
    }

    #[test]
    fn what_does_not_matter_goes() {
        let mut steps: Vec<Step> = (0..100u8).map(|number| step(&[number; 90])).collect();
        steps[33].frame[40] = 0xaa;
        steps[71].frame[7] = 0xbb;
        let has = |steps: &[Step], byte| steps.iter().any(|step| step.frame.contains(&byte));
        let least = shrink(steps, |steps| has(steps, 0xaa) && has(steps, 0xbb));
        let frames: Vec<&[u8]> = least.iter().map(|step| &step.frame[..]).collect();
        assert_eq!(frames, [[0xaa], [0xbb]]);
    }
}
