//! Sizes of the register tile and of the cache blocks.

use athanor_ir::DType;
use athanor_ir::plan::GemmSpec;
use athanor_ir::target::CpuLevel;

use super::super::pack::Side;
use super::tile::Blocks;

/// What passes what in the inner loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A strip of A stays in the L1 cache while panels of B pass, from L2.
    StripByStrip,
    /// A panel of B stays in the L1 cache while strips of A pass, packed into L2.
    PanelByPanel,
}

/// Sizes of a product on vector registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocking {
    /// f32 in a vector.
    pub lanes: usize,
    /// Rows of the register tile.
    pub mr: usize,
    /// Columns of the register tile: two vectors.
    pub nr: usize,
    /// Rows in a packed strip of A: `mr` up to whole vectors, or `mr`.
    pub strip: usize,
    /// Depth of a packed panel.
    pub kc: usize,
    /// Panels of B packed at a time.
    pub panels: usize,
    /// Order of the inner loops.
    pub order: Order,
    /// Strips of A packed at a time.
    pub strips: usize,
    /// Whether strips of A are packed, or read in place.
    pub pack_a: bool,
    /// Turns of the inner loop written out.
    pub unroll: usize,
    /// Strips of C whose sums are kept in scratch while k is cut into blocks; 0 if none are.
    pub kept: usize,
}

/// Strip by strip: bytes of packed B that stay in the L2 cache beside the rest, and depth of a panel.
const B_BYTES: usize = 1 << 20;
const KC: usize = 512;

/// Panel by panel: depth of a panel, of which 24 KiB of B and a strip of A share an L1 cache of 32 KiB; rows of A packed
/// into L2, 144 KiB; columns of B packed into L3, 768 KiB. Measured on two cores of a Zen 3 with 512 KiB of L2: depths of
/// 256 to 512 with 72 to 144 rows were equal within the noise.
const DEPTH: usize = 384;
const ROWS: usize = 96;
const COLUMNS: usize = 512;
/// Rows whose sums are kept at a time, 1.5 MiB with as many columns.
const KEPT_ROWS: usize = 768;

impl Blocking {
    /// Sizes for the dense product `spec`.
    pub fn dense(spec: &GemmSpec, level: CpuLevel) -> Self {
        let lanes = level.f32_lanes();
        let mr = rows_of_tile(level);
        let nr = 2 * lanes;
        if level >= CpuLevel::Avx512 {
            // A bf16 result is rounded once, so its sums must not leave the registers.
            let kc = if spec.c.dtype == DType::F32 { spec.k.min(KC) } else { spec.k };
            let panels = (B_BYTES / (kc * nr * 4)).clamp(1, spec.n.div_ceil(nr));
            // In place only if k is contiguous and the rows of a tile do not fall into the same few cache sets.
            let in_place =
                spec.a.dtype == DType::F32 && spec.a.col_stride == 1 && !(spec.a.row_stride * 4).is_multiple_of(4096);
            let strip = mr.next_multiple_of(lanes);
            let order = Order::StripByStrip;
            let (pack_a, unroll) = (!in_place, turns(spec.k, kc));
            return Self { lanes, mr, nr, strip, kc, panels, order, strips: 1, pack_a, unroll, kept: 0 };
        }
        Self::blocked((spec.m, spec.n, Some(spec.k)), spec.c.dtype, level)
    }

    /// Sizes for blocks of strips that pass a panel of B, in a product of m × n results, `k` deep if that is known.
    pub fn blocked((m, n, k): (usize, usize, Option<usize>), result: DType, level: CpuLevel) -> Self {
        let lanes = level.f32_lanes();
        let mr = rows_of_tile(level);
        let nr = 2 * lanes;
        let kc = k.map_or(DEPTH, |k| even(k, DEPTH));
        let panels = (COLUMNS / nr).clamp(1, n.div_ceil(nr));
        let strips = (ROWS / mr).clamp(1, m.div_ceil(mr));
        let keeps = result != DType::F32 && k.is_none_or(|k| kc < k);
        let kept = if keeps { KEPT_ROWS.div_ceil(mr).min(m.div_ceil(mr)) } else { 0 };
        let unroll = k.map_or(4, |k| turns(k, kc));
        Self { lanes, mr, nr, strip: mr, kc, panels, order: Order::PanelByPanel, strips, pack_a: true, unroll, kept }
    }

    /// What a register tile reads A from, the operand or its packed strips: type, and distances of rows and of k.
    pub fn read_a(&self, side: &Side, operand: &str) -> (String, usize, usize) {
        let packed = format!("memref<{}xf32>", self.a_elements());
        match (self.pack_a, self.order == Order::PanelByPanel && side.along == 1) {
            (false, _) => (operand.to_owned(), side.across, side.along),
            // Rows are copied as they are.
            (true, true) => (packed, self.depth(), 1),
            (true, false) => (packed, 1, self.strip),
        }
    }

    /// Where sums go between blocks of a `k` deep product into `dtype`.
    pub fn blocks(&self, dtype: DType, k: usize) -> Blocks {
        match (self.kc < k, dtype) {
            (false, _) => Blocks::One,
            (true, DType::BF16 | DType::F16) => Blocks::Kept(format!("memref<{}xf32>", self.sums_elements())),
            (true, _) => Blocks::InC,
        }
    }

    /// Elements of k from one strip or panel to the next: packing writes whole vectors.
    pub fn depth(&self) -> usize {
        self.kc.next_multiple_of(self.lanes)
    }

    /// Elements of packed B.
    pub fn b_elements(&self) -> usize {
        self.depth() * self.nr * self.panels
    }

    /// Elements of packed A. The last vector of a strip narrower than its vectors reaches beyond it.
    pub fn a_elements(&self) -> usize {
        let beyond = self.strip.next_multiple_of(self.lanes) - self.strip;
        if self.pack_a { self.depth() * self.strip * self.strips + beyond } else { 0 }
    }

    /// Elements of the sums that are kept.
    pub fn sums_elements(&self) -> usize {
        self.kept * self.mr * self.panels * self.nr
    }

    /// Scratch of a worker: B, A, sums, each from a cache line on.
    pub fn scratch_bytes(&self) -> usize {
        (self.sums_at() + self.sums_elements() * 4).next_multiple_of(4096)
    }

    /// Where packed A lies in the scratch, bytes.
    pub fn a_at(&self) -> usize {
        self.b_elements() * 4
    }

    /// Where kept sums lie in the scratch, bytes.
    pub fn sums_at(&self) -> usize {
        self.a_at() + (self.a_elements() * 4).next_multiple_of(64)
    }
}

/// As many sums as the register file holds beside two vectors of B and a broadcast: 28 of 32, or 12 of 16.
fn rows_of_tile(level: CpuLevel) -> usize {
    if level >= CpuLevel::Avx512 { 14 } else { 6 }
}

/// Turns of the inner loop written out: every block of k is a multiple of it.
fn turns(k: usize, kc: usize) -> usize {
    [4, 2].into_iter().find(|u| k.is_multiple_of(*u) && kc.is_multiple_of(*u)).unwrap_or(1)
}

/// `k` in the fewest blocks of at most `most`, all about the same depth and a multiple of 8.
fn even(k: usize, most: usize) -> usize {
    k.div_ceil(k.div_ceil(most)).next_multiple_of(8).min(k)
}
