//! Proof that the ranks of a plan fit together: every collective operation of a rank meets the same one of all its group.

use athanor_ir::module::Mesh;
use athanor_ir::plan::{Action, Plan, Stage};
use athanor_ir::{Code, Collective, DType, Diagnostic, Op, Result};
use std::collections::HashMap;

/// Ranks of a plan would wait for each other, or take each other's data for something else.
pub const UNMATCHED: Code = Code {
    id: "P0601",
    title: "the ranks of the plan do not fit together",
    explain: "Before a plan for several ranks is written, the calls of all of them are played through: ranks of a group must \
              come to the same collective operation, over the same group, of the same type and size, without any of them \
              waiting for another that never comes. A plan that fails this would hang or compute nonsense; the compiler has \
              made a mistake that is worth reporting.",
};

/// A collective operation of one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call<'a> {
    /// Program.
    pub program: &'a str,
    /// Step of the program.
    pub step: usize,
    /// What is done.
    pub op: &'a Collective,
    /// Element type.
    pub dtype: DType,
    /// Size of the operand.
    pub bytes: usize,
    /// Index of the group in [`Calls::groups`].
    pub group: usize,
}

/// The collective operations of all ranks.
#[derive(Debug, Clone, Default)]
pub struct Calls<'a> {
    /// Members of each group, by rank.
    pub groups: Vec<Vec<usize>>,
    /// Calls of each rank, in order; programs run in the order of the plan.
    pub ranks: Vec<Vec<Call<'a>>>,
}

impl<'a> Calls<'a> {
    /// The calls that every rank of `mesh` makes in the programs of `stage`.
    pub fn of(mesh: &Mesh, stage: &'a Stage) -> Self {
        let mut this = Self::default();
        let mut known: HashMap<Vec<usize>, usize> = HashMap::new();
        for rank in 0..mesh.ranks() {
            let mut calls = vec![];
            let mut own: HashMap<&str, usize> = HashMap::new();
            for p in &stage.programs {
                for (step, s) in p.steps.iter().enumerate() {
                    let Action::Op(Op::Collective(op)) = &s.action else { continue };
                    if !op.sends() {
                        continue;
                    }
                    let Some(x) = s.inputs.first().map(|i| &stage.buffers[*i]) else { continue };
                    let group = *own.entry(&op.axes).or_insert_with(|| {
                        let members = mesh.group(&op.axes().collect::<Vec<_>>(), rank);
                        *known.entry(members).or_insert_with_key(|members| {
                            this.groups.push(members.clone());
                            this.groups.len() - 1
                        })
                    });
                    calls.push(Call { program: &p.name, step, op, dtype: x.dtype, bytes: x.bytes, group });
                }
            }
            this.ranks.push(calls);
        }
        this
    }

    /// Plays the calls through, each waiting until all of its group have come.
    ///
    /// # Errors
    /// [`UNMATCHED`] with two ranks that do not fit.
    pub fn matched(&self) -> Result<()> {
        let mut at = vec![0; self.ranks.len()];
        let call = |rank: usize, at: &[usize]| self.ranks.get(rank).and_then(|calls| calls.get(at[rank]));
        loop {
            let mut moved = false;
            for rank in 0..self.ranks.len() {
                let Some(first) = call(rank, &at) else { continue };
                let members = self.groups.get(first.group).map_or(&[][..], Vec::as_slice);
                if !members.contains(&rank) {
                    return unmatched(&format!("rank {rank} calls {} of a group without it", describe(first)));
                }
                if members.len() != first.op.ranks {
                    return unmatched(&format!("{} of rank {rank} has a group of {}", describe(first), members.len()));
                }
                // The first member looks after the group.
                if members[0] != rank {
                    continue;
                }
                let together = |m: &usize| call(*m, &at).is_some_and(|c| c.group == first.group);
                if !members.iter().all(together) {
                    continue;
                }
                for m in members {
                    let Some(other) = call(*m, &at) else { continue };
                    if (other.op, other.dtype, other.bytes) != (first.op, first.dtype, first.bytes) {
                        return unmatched(&format!(
                            "rank {rank} calls {}, rank {m} {}",
                            describe(first),
                            describe(other)
                        ));
                    }
                }
                members.iter().for_each(|m| at[*m] += 1);
                moved = true;
            }
            if !moved {
                break;
            }
        }
        let waiting = (0..self.ranks.len()).find_map(|r| call(r, &at).map(|c| (r, c)));
        let Some((rank, c)) = waiting else { return Ok(()) };
        let missing = |m: &&usize| call(**m, &at).is_none_or(|o| o.group != c.group);
        let other = self.groups[c.group].iter().find(missing);
        let does = |m: usize| call(m, &at).map_or("has ended".to_owned(), |o| format!("waits in {}", describe(o)));
        let other = other.map_or_else(String::new, |m| format!(", where rank {m} never comes: it {}", does(*m)));
        unmatched(&format!("rank {rank} waits in {}{other}", describe(c)))
    }
}

fn describe(c: &Call<'_>) -> String {
    format!(
        "{} over {} of {} bytes of {} (program {}, step {})",
        c.op.name(),
        c.op.axes,
        c.bytes,
        c.dtype,
        c.program,
        c.step
    )
}

fn unmatched(text: &str) -> Result<()> {
    Diagnostic::error(&UNMATCHED, text)
        .help("report it with the configuration; `athanor explain P0601` says more")
        .err()
}

/// Proves that the ranks of `plan` fit together.
///
/// # Errors
/// [`UNMATCHED`].
pub fn prove(plan: &Plan) -> Result<()> {
    if plan.mesh.ranks() == 1 {
        return Ok(());
    }
    plan.stages.iter().try_for_each(|stage| Calls::of(&plan.mesh, stage).matched())
}

#[cfg(test)]
mod tests {
    use super::*;
    use athanor_ir::module::Axis;
    use athanor_ir::{CollectiveKind, ReduceKind};

    fn op(kind: CollectiveKind, axes: &str, ranks: usize) -> Collective {
        Collective { kind, axes: axes.into(), ranks }
    }

    const SUM: CollectiveKind = CollectiveKind::AllReduce { reduce: ReduceKind::Sum };

    /// Ranks of a mesh of 2 × 2 that call `ops` of 8 bytes in order.
    fn calls(ops: &[Collective]) -> Calls<'_> {
        let axis = |name: &str| Axis { name: name.into(), size: 2 };
        let mesh = Mesh { axes: vec![axis("dp"), axis("tp")] };
        let mut all = Calls::default();
        for rank in 0..4 {
            let mut own = vec![];
            for (step, op) in ops.iter().enumerate() {
                let members = mesh.group(&op.axes().collect::<Vec<_>>(), rank);
                let group = all.groups.iter().position(|g| *g == members).unwrap_or_else(|| {
                    all.groups.push(members);
                    all.groups.len() - 1
                });
                own.push(Call { program: "micro", step, op, dtype: DType::F32, bytes: 8, group });
            }
            all.ranks.push(own);
        }
        all
    }

    fn ops() -> Vec<Collective> {
        vec![op(SUM, "tp", 2), op(SUM, "dp", 2), op(CollectiveKind::AllGather { dim: 0 }, "tp", 2), op(SUM, "dp,tp", 4)]
    }

    fn refused(calls: &Calls<'_>, says: &str) {
        let e = calls.matched().unwrap_err();
        assert_eq!(e.code, &UNMATCHED);
        assert!(e.message.contains(says), "{}", e.message);
    }

    #[test]
    fn ranks_that_do_the_same_fit_together() {
        calls(&ops()).matched().unwrap();
        calls(&[]).matched().unwrap();
    }

    #[test]
    fn ranks_that_do_other_things_are_found() {
        let ops = ops();
        let good = calls(&ops);
        let mutated = |change: &dyn Fn(&mut Calls<'_>)| {
            let mut c = good.clone();
            change(&mut c);
            c
        };
        // Each of the four waits for the next one.
        let circle = |c: &mut Calls<'_>| {
            c.ranks[1].swap(0, 1);
            c.ranks[2].swap(0, 1);
        };
        refused(&mutated(&circle), "never comes");
        // Both are over tp: the group is right, and the operation is not.
        refused(&mutated(&|c| c.ranks[1].swap(0, 2)), "rank 0 calls all_reduce over tp");
        refused(&mutated(&|c| c.ranks[3][1].bytes = 4), "of 4 bytes");
        refused(&mutated(&|c| c.ranks[3][1].dtype = DType::BF16), "of bf16");
        refused(&mutated(&|c| c.ranks[0][0].group = c.ranks[2][0].group), "a group without it");
        refused(&mutated(&|c| c.ranks[0][0].group = c.ranks[0][1].group), "rank 0 calls all_reduce over tp");
        refused(&mutated(&|c| c.ranks[0][0].group = c.ranks[0][3].group), "has a group of 4");
        refused(&mutated(&|c| c.ranks[1].truncate(3)), "it has ended");
        refused(&mutated(&|c| c.ranks[1].retain(|c| c.step != 1)), "waits in");
    }
}
