//! Where queries are among the keys: bounds of loops and masks where keys begin before or after the first query.

use super::layout::{DEPTH, Plan};
use crate::codegen::emit::{Buf, Emit, Val};

impl Plan {
    /// The position of the first query among the keys, from what the kernel was given; `None` if the two begin together.
    pub(super) fn start(e: &mut Emit, origin: Option<&Buf>) -> Option<Val> {
        let origin = origin?;
        let zero = e.index(0);
        let first = e.load(origin, &[zero]);
        let first = e.val(format_args!("arith.index_cast {first} : i32 to index"));
        Some(e.idx("subi", zero, first))
    }

    /// [`Self::start`] in a helper, which is given it.
    pub(super) fn given_start(&self) -> Option<Val> {
        self.spec.first.then_some(Val::Arg("start"))
    }

    /// The position of query `q` among the keys.
    pub(super) fn position(e: &mut Emit, q: Val, start: Option<Val>) -> Val {
        start.map_or(q, |start| e.idx("addi", q, start))
    }

    /// End of the keys that queries before `q` see, rounded up to a register tile: what is too many is masked.
    pub(super) fn seen(&self, e: &mut Emit, q: Val, start: Option<Val>) -> Val {
        match start {
            None => q,
            Some(start) => {
                let end = Self::after(e, q, start);
                e.ceil_to(end, self.simd.rows)
            }
        }
    }

    /// `start + q`, or 0 if that is before the first key.
    fn after(e: &mut Emit, q: Val, start: Val) -> Val {
        let (end, zero) = (e.idx("addi", q, start), e.index(0));
        e.idx("maxsi", end, zero)
    }

    /// First query that sees key `k`, or `least` if that is later.
    pub(super) fn seen_from(e: &mut Emit, k: Val, least: Val, start: Option<Val>) -> Val {
        let query = start.map_or(k, |start| e.idx("subi", k, start));
        e.idx("maxsi", query, least)
    }

    /// Whether some of the 32 queries from `q` on do not see all of the 32 keys from `k` on, and how far `q` is ahead of `k`.
    pub(super) fn crosses(e: &mut Emit, k: Val, q: Val, start: Option<Val>) -> (Val, Option<Val>) {
        match start {
            None => (e.test("eq", k, q), None),
            Some(start) => {
                let position = e.idx("addi", q, start);
                let ahead = e.idx("subi", position, k);
                let all = e.index(DEPTH - 1);
                (e.test("slt", ahead, all), Some(ahead))
            }
        }
    }

    /// First of the blocks of 32 queries that sees some of the 32 keys from `k` on, or `least` if that is later.
    pub(super) fn block_from(e: &mut Emit, k: Val, least: Val, start: Option<Val>) -> Val {
        let from = Self::seen_from(e, k, least, start);
        if start.is_some() { e.floor_to(from, DEPTH) } else { from }
    }

    /// End of the blocks of 32 keys that queries before `q` see.
    pub(super) fn blocks_seen(e: &mut Emit, q: Val, start: Option<Val>) -> Val {
        match start {
            None => q,
            Some(start) => {
                let end = Self::after(e, q, start);
                e.ceil_to(end, DEPTH)
            }
        }
    }
}
