//! Whether the two streams of a program get in each other's way.
//!
//! Steps of one stream are carried out in their order, those of the other beside them. A step may touch the bytes of one on the other
//! stream only if one of them waits for the other to end ([`Step::after`]). All that ranks do together is in the order of the
//! program on every rank, whatever the stream: so that ranks which run one program meet as they would without streams.

use crate::plan::{Action, Buffer, Program, Step, Stream};

/// Whether one of two steps writes bytes that the other reads or writes.
pub fn conflict(buffers: &[Buffer], a: &Step, b: &Step) -> bool {
    let share = |x: &usize, y: &usize| buffers.get(*x).zip(buffers.get(*y)).is_some_and(|(x, y)| x.shares(y));
    let meet = |xs: &[usize], ys: &[usize]| xs.iter().any(|x| ys.iter().any(|y| share(x, y)));
    meet(&a.outputs, &b.outputs) || meet(&a.outputs, &b.inputs) || meet(&a.inputs, &b.outputs)
}

/// Follows both streams of `program`.
///
/// # Errors
/// The first step that begins while another one, on the other stream, may still be at work on its bytes; and a communication
/// beside another one, since members of a group must meet in one order.
pub fn check(buffers: &[Buffer], program: &Program) -> Result<(), String> {
    let steps = &program.steps;
    let says = |i: usize, text: String| Err(format!("program `{}`, step {i}: {text}", program.name));
    // Communication that no step has waited for yet, and the last compute step that has ended before the next communication.
    let mut flying: Vec<usize> = vec![];
    let mut ended: Option<usize> = None;
    for (i, step) in steps.iter().enumerate() {
        if let Some(a) = step.after
            && (a >= i || steps[a].stream == step.stream)
        {
            return says(i, format!("waits for step {a}, which is no earlier one of the other stream"));
        }
        let sends = |i: usize| steps[i].sends().is_some();
        match step.stream {
            Stream::Compute => {
                if let Some(a) = step.after {
                    flying.retain(|f| *f > a);
                }
                if let (Action::Again { .. }, Some(f)) = (&step.action, flying.first()) {
                    return says(i, format!("goes back while step {f} may still be at work"));
                }
                for f in &flying {
                    if sends(i) {
                        return says(i, format!("communicates while step {f} may still do so"));
                    }
                    if conflict(buffers, step, &steps[*f]) {
                        return says(i, format!("touches bytes of step {f} and does not wait for it"));
                    }
                }
            }
            Stream::Communication => {
                if !sends(i) {
                    return says(i, "is no communication and stands on the stream for it".into());
                }
                ended = ended.max(step.after);
                let first = ended.map_or(0, |e| e + 1);
                for k in (first..i).filter(|k| steps[*k].stream == Stream::Compute) {
                    if sends(k) {
                        return says(i, format!("communicates while step {k} may still do so"));
                    }
                    if conflict(buffers, step, &steps[k]) {
                        return says(i, format!("touches bytes of step {k} and does not wait for it"));
                    }
                }
                flying.push(i);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{Collective, CollectiveKind};
    use crate::element::ReduceKind;
    use crate::func::Loc;
    use crate::memory::Memory;
    use crate::op::{Op, Unary};
    use crate::plan::BufferRole;
    use crate::sharding::Sharding;
    use crate::types::DType;

    fn buffers() -> Vec<Buffer> {
        let at = |i: usize| Buffer {
            name: format!("b{i}"),
            dtype: DType::F32,
            dims: vec![16],
            memory: Memory::Device,
            offset: 64 * i,
            bytes: 64,
            role: BufferRole::Activation,
            sharding: Sharding::default(),
            live: Some((0, 9)),
        };
        (0..6).map(at).collect()
    }

    fn works(from: usize, to: usize) -> Step {
        Step::new(Action::Op(Op::Unary(Unary::Neg)), vec![from], vec![to], Loc::default())
    }

    fn sums(from: usize, to: usize) -> Step {
        let kind = CollectiveKind::AllReduce { reduce: ReduceKind::Sum };
        let op = Op::Collective(Collective { kind, axes: "tp".into(), ranks: 2 });
        Step::new(Action::Op(op), vec![from], vec![to], Loc::default())
    }

    fn beside(step: Step) -> Step {
        Step { stream: Stream::Communication, ..step }
    }

    fn after(a: usize, step: Step) -> Step {
        Step { after: Some(a), ..step }
    }

    /// b1 = -b0; b2 = sum b1, while b3 = -b0; b4 = -b2; b5 = sum b4
    fn good() -> Vec<Step> {
        vec![works(0, 1), after(0, beside(sums(1, 2))), works(0, 3), after(1, works(2, 4)), sums(4, 5)]
    }

    fn of(steps: Vec<Step>) -> Result<(), String> {
        check(&buffers(), &Program { name: "micro".into(), steps, results: vec![] })
    }

    fn refused(change: impl FnOnce(&mut Vec<Step>), says: &str) {
        let mut steps = good();
        change(&mut steps);
        let e = of(steps).expect_err(says);
        assert!(e.contains(says), "{e} should say {says:?}");
    }

    #[test]
    fn what_is_beside_others_is_waited_for() {
        of(good()).unwrap();
        refused(|s| s[3].after = None, "step 3: touches bytes of step 1 and does not wait");
        refused(|s| s[1].after = None, "step 1: touches bytes of step 0 and does not wait");
        // Its operand is overwritten while it is sent.
        refused(|s| s[2].outputs = vec![1], "step 2: touches bytes of step 1");
        refused(|s| s[2].inputs = vec![2], "step 2: touches bytes of step 1");
        refused(|s| s[1].after = Some(2), "no earlier one of the other stream");
        refused(|s| s[3].after = Some(2), "no earlier one of the other stream");
        refused(|s| s[2].stream = Stream::Communication, "no communication");
    }

    #[test]
    fn going_back_waits_for_everything() {
        let again =
            |after| Step { after, ..Step::new(Action::Again { first: 0 }, vec![3, 4], vec![4], Loc::default()) };
        let steps = |a| vec![works(0, 1), after(0, beside(sums(1, 2))), works(0, 5), again(a)];
        of(steps(Some(1))).unwrap();
        assert!(of(steps(None)).unwrap_err().contains("step 3: goes back while step 1"));
    }

    #[test]
    fn ranks_communicate_in_one_order() {
        refused(|s| s[3] = works(0, 4), "step 4: communicates while step 1 may still");
        let two = |wait: Option<usize>| {
            of(vec![sums(0, 1), works(2, 3), Step { after: wait, ..beside(sums(3, 4)) }, after(2, works(4, 5))])
        };
        two(Some(1)).unwrap();
        assert!(two(Some(0)).unwrap_err().contains("step 2: touches bytes of step 1"));
        assert!(two(None).unwrap_err().contains("step 2: communicates while step 0"));
        // One that has waited has done so for those behind it.
        let behind = vec![works(0, 1), after(0, beside(sums(1, 2))), beside(sums(3, 4)), after(2, works(2, 5))];
        of(behind).unwrap();
    }
}
