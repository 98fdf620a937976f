//! Slots sorted by expert: `nn.assign`.

use athanor_ir::target::CpuLevel;

use super::Generated;
use super::emit::{Buf, Emit, Val};
use super::llvm::KernelText;
use super::scratch::Scratch;
use super::simd::{Float, Simd};

/// An assignment of slots to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssignSpec {
    /// Slots: tokens times choices.
    pub slots: usize,
    /// Experts.
    pub experts: usize,
    /// Most slots an expert keeps; 0 for no bound.
    pub capacity: usize,
    /// Element type of the weights that decide what is dropped; without them the first slots stay.
    pub weights: Option<Float>,
}

/// Arrays that the sort works on.
struct Sort<'a> {
    spec: &'a AssignSpec,
    ids: &'a Buf,
    rows: &'a Buf,
    spans: &'a Buf,
    /// Row that the next slot of each expert gets, i32 `[e]`.
    next: Buf,
}

/// The kernel, a stable counting sort. Buffers: ids i32 `[S]`[, weights `[S]`] → rows i32 `[S]`, spans i32 `[e, 2]`,
/// scratch. One grid item: the work is a few passes over small integers. An id outside the experts drops its slot.
pub fn assign(spec: &AssignSpec, level: CpuLevel, symbol: &str) -> Generated {
    let ids = Buf::arg("ids", &[spec.slots], "i32");
    let weights = spec.weights.map(|w| Buf::arg("weights", &[spec.slots], w.name()));
    let rows = Buf::arg("rows", &[spec.slots], "i32");
    let spans = Buf::arg("spans", &[spec.experts, 2], "i32");
    let mut scratch = Scratch::default();
    let next_at = scratch.reserve_bytes(4 * spec.experts);
    // Only where weights decide: the slots in sorted order, and where each expert's begin.
    let order_at = if weights.is_some() { scratch.reserve_bytes(4 * spec.slots) } else { 0 };
    let all_at = if weights.is_some() { scratch.reserve_bytes(8 * spec.experts) } else { 0 };
    let bytes = scratch.buf();
    let mut bufs = vec![&ids];
    bufs.extend(&weights);
    bufs.extend([&rows, &spans, &bytes]);
    let mut e = Emit::default();
    e.func(symbol, false, &bufs, &["lo", "hi", "worker"], |e| {
        let next = scratch.array(e, next_at, &[spec.experts], "i32");
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, _| {
            let sort = Sort { spec, ids: &ids, rows: &rows, spans: &spans, next };
            if let Some(weights) = &weights {
                let all = scratch.array(e, all_at, &[spec.experts, 2], "i32");
                let order = scratch.array(e, order_at, &[spec.slots], "i32");
                sort.heaviest(e, &Simd::of(level), (weights, &all, &order));
            } else {
                sort.count(e, &spans, spec.capacity);
                sort.deal(e, |e, slot, row| {
                    e.store(row, &rows, &[slot]);
                });
            }
        });
    });
    let text = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: bufs.len() };
    Generated { text, grid: 1, scratch_bytes_per_worker: scratch.bytes() }
}

fn int(e: &mut Emit, n: i32) -> Val {
    e.val(format_args!("arith.constant {n} : i32"))
}

fn index(e: &mut Emit, x: Val) -> Val {
    e.val(format_args!("arith.index_cast {x} : i32 to index"))
}

fn narrow(e: &mut Emit, x: Val) -> Val {
    e.val(format_args!("arith.index_cast {x} : index to i32"))
}

fn add(e: &mut Emit, a: Val, b: Val) -> Val {
    e.val(format_args!("arith.addi {a}, {b} : i32"))
}

impl Sort<'_> {
    /// Runs `body` with every slot and its expert if there is one, and `dropped` with the others.
    fn slots(&self, e: &mut Emit, body: impl FnOnce(&mut Emit, Val, Val), dropped: impl FnOnce(&mut Emit, Val)) {
        let (zero, slots, experts) = (e.index(0), e.index(self.spec.slots), e.index(self.spec.experts));
        e.each(zero, slots, 1, |e, slot| {
            let id = e.load(self.ids, &[slot]);
            let id = index(e, id);
            let known = e.test("ult", id, experts);
            e.either(known, |e| body(e, slot, id), |e| dropped(e, slot));
        });
    }

    /// Where the slots of each expert begin and end if it keeps at most `capacity` (0: all), into `spans` and `next`.
    fn count(&self, e: &mut Emit, spans: &Buf, capacity: usize) {
        let (zero, experts) = (e.index(0), e.index(self.spec.experts));
        let none = int(e, 0);
        e.each(zero, experts, 1, |e, x| e.store(none, &self.next, &[x]));
        self.slots(
            e,
            |e, _, id| {
                let old = e.load(&self.next, &[id]);
                let one = int(e, 1);
                let more = add(e, old, one);
                e.store(more, &self.next, &[id]);
            },
            |_, _| {},
        );
        let one = e.index(1);
        let _ = e.fold((zero, experts, 1), &[none], "i32", |e, x, start| {
            e.store(start[0], spans, &[x, zero]);
            let mut count = e.load(&self.next, &[x]);
            if let Ok(most @ 1..) = i32::try_from(capacity) {
                let most = int(e, most);
                count = e.val(format_args!("arith.minsi {count}, {most} : i32"));
            }
            e.store(start[0], &self.next, &[x]);
            let end = add(e, start[0], count);
            e.store(end, spans, &[x, one]);
            vec![end]
        });
    }

    /// Gives every slot its row, or −1 once its expert is full; `place` writes it. Slots without an expert have none.
    fn deal(&self, e: &mut Emit, place: impl Fn(&mut Emit, Val, Val)) {
        let drop = |e: &mut Emit, slot: Val| {
            let none = int(e, -1);
            e.store(none, self.rows, &[slot]);
        };
        self.slots(
            e,
            |e, slot, id| {
                let row = e.load(&self.next, &[id]);
                if self.spec.capacity == 0 {
                    let one = int(e, 1);
                    let after = add(e, row, one);
                    e.store(after, &self.next, &[id]);
                    place(e, slot, row);
                    return;
                }
                let one = e.index(1);
                let end = e.load(self.spans, &[id, one]);
                let room = e.val(format_args!("arith.cmpi slt, {row}, {end} : i32"));
                e.either(
                    room,
                    |e| {
                        let one = int(e, 1);
                        let after = add(e, row, one);
                        e.store(after, &self.next, &[id]);
                        place(e, slot, row);
                    },
                    |e| drop(e, slot),
                );
            },
            drop,
        );
    }

    /// Of an expert with more slots than it keeps the heaviest stay, the earlier among equals, in their old order.
    fn heaviest(&self, e: &mut Emit, simd: &Simd, (weights, all, order): (&Buf, &Buf, &Buf)) {
        // The full sort: `order` holds the slots by expert, `all` where each expert's begin and end.
        self.count(e, all, 0);
        self.slots(
            e,
            |e, slot, id| {
                let at = e.load(&self.next, &[id]);
                let one = int(e, 1);
                let after = add(e, at, one);
                e.store(after, &self.next, &[id]);
                let (at, slot) = (index(e, at), narrow(e, slot));
                e.store(slot, order, &[at]);
            },
            |e, slot| {
                let none = int(e, -1);
                e.store(none, self.rows, &[slot]);
            },
        );
        let (zero, experts) = (e.index(0), e.index(self.spec.experts));
        let (first, second) = (int(e, 0), e.index(1));
        let _ = e.fold((zero, experts, 1), &[first], "i32", |e, x, start| {
            let start = start[0];
            let (lo, hi) = (e.load(all, &[x, zero]), e.load(all, &[x, second]));
            let (lo, hi) = (index(e, lo), index(e, hi));
            let count = e.idx("subi", hi, lo);
            let capacity = e.index(self.spec.capacity);
            let kept = e.idx("minsi", count, capacity);
            let kept = narrow(e, kept);
            let end = add(e, start, kept);
            e.store(start, self.spans, &[x, zero]);
            e.store(end, self.spans, &[x, second]);
            let _ = e.fold((lo, hi, 1), &[start], "i32", |e, i, row| {
                let slot = e.load(order, &[i]);
                let slot = index(e, slot);
                let weight = simd.scalar(e, weights, &[slot]);
                // How many slots of the expert come before this one by weight, then by position.
                let before = e.fold((lo, hi, 1), &[zero], "index", |e, j, n| {
                    let other = e.load(order, &[j]);
                    let other = index(e, other);
                    let theirs = simd.scalar(e, weights, &[other]);
                    let heavier = e.val(format_args!("arith.cmpf ogt, {theirs}, {weight} : f32"));
                    let equal = e.val(format_args!("arith.cmpf oeq, {theirs}, {weight} : f32"));
                    let earlier = e.test("slt", j, i);
                    let tie = e.val(format_args!("arith.andi {equal}, {earlier} : i1"));
                    let counts = e.val(format_args!("arith.ori {heavier}, {tie} : i1"));
                    let one = e.idx_c("addi", n[0], 1);
                    vec![e.val(format_args!("arith.select {counts}, {one}, {} : index", n[0]))]
                });
                // A NaN is before nobody and nobody before it: rows are bounded by the expert's end all the same.
                let among = e.test("slt", before[0], capacity);
                let room = e.val(format_args!("arith.cmpi slt, {}, {end} : i32", row[0]));
                let stays = e.val(format_args!("arith.andi {among}, {room} : i1"));
                let none = int(e, -1);
                let given = e.val(format_args!("arith.select {stays}, {}, {none} : i32", row[0]));
                e.store(given, self.rows, &[slot]);
                let one = int(e, 1);
                let next = add(e, row[0], one);
                vec![e.val(format_args!("arith.select {stays}, {next}, {} : i32", row[0]))]
            });
            vec![end]
        });
    }
}
