//! Offsets in both memories: named buffers first, then the slots of a pipeline and what slices share, then what lives within programs.

use super::arena::{Block, align, place};
use super::layout::{Home, Place};
use super::streams::wait;
use super::{Contents, Draft, Named};
use athanor_ir::memory::Memory;
use athanor_ir::plan::{Action, Buffer, BufferRole, Chunk, Program, Stage, Step, Stream};
use athanor_ir::sharding::Sharding;
use athanor_ir::types::TensorType;
use std::collections::HashMap;

/// The steps of a block's life: parts of the draft, and steps counted through all of them with one more behind each.
#[derive(Debug, Clone, Copy)]
struct Life {
    parts: (usize, usize),
    steps: (usize, usize),
    /// It comes from another program, or goes to one.
    crosses: bool,
}

/// Where the blocks of a draft lie.
struct Placed {
    /// Life of each block that something touches.
    lives: Vec<Option<Life>>,
    /// Offset of each block, in a slot or in the part of its memory's arena that programs share.
    offsets: Vec<usize>,
    /// First step of each part, counted as in [`Life::steps`].
    starts: Vec<usize>,
    /// Bytes of a slot, by memory.
    slot: [usize; 2],
    /// Bytes that the largest program needs, by memory.
    peak: [usize; 2],
}

impl Life {
    /// Whether the block lies in a slot: more than one program reads or writes it.
    fn in_slot(&self) -> bool {
        self.crosses || self.parts.0 != self.parts.1
    }
}

impl Placed {
    fn of(draft: &Draft<'_>) -> Self {
        let mut starts = vec![0];
        let first = |part: usize| if part == 0 { 0 } else { draft.ends[part - 1] };
        for part in 0..draft.ends.len() {
            starts.push(starts[part] + draft.ends[part] - first(part) + 1);
        }
        let mut lives: Vec<Option<Life>> = vec![None; draft.layout.locals.len()];
        let mut touch = |place: &Place, part: usize, at: usize, crosses: bool| {
            if let Home::Local(l) = place.home {
                let life = lives[l].get_or_insert(Life { parts: (part, part), steps: (at, at), crosses });
                life.parts = (life.parts.0.min(part), life.parts.1.max(part));
                life.steps = (life.steps.0.min(at), life.steps.1.max(at));
                life.crosses |= crosses;
            }
        };
        for (i, s) in draft.steps.iter().enumerate() {
            let part = draft.ends.iter().filter(|e| **e <= i).count();
            let at = |i: usize| starts[part] + i - first(part);
            // What communicates beside others keeps its memory until it has been waited for.
            for at in [Some(at(i)), draft.beside.get(&i).map(|last| at(*last))].into_iter().flatten() {
                s.inputs.iter().chain(&s.outputs).chain(&s.scratch).for_each(|(p, _)| touch(p, part, at, false));
            }
        }
        let defs = draft.func.defs();
        let of = |v: &athanor_ir::ValueId| draft.layout.places[v.0 as usize];
        for r in &draft.func.results {
            let part = draft.parts.part(defs[r.value.0 as usize]);
            touch(&of(&r.value), part, starts[part + 1] - 1, false);
        }
        if let Some(c) = &draft.parts.crossing {
            c.arrives.iter().for_each(|v| touch(&of(v), 0, 0, true));
            c.leaves.iter().for_each(|v| touch(&of(v), 0, starts[1] - 1, false));
            c.returns.iter().for_each(|v| touch(&of(v), 1, starts[1], true));
            c.goes_back.iter().for_each(|v| touch(&of(v), 1, starts[2] - 1, false));
        }
        // What a repeated step reads of what was made before, or leaves for later, lives through all rounds.
        for (i, s) in draft.steps.iter().enumerate() {
            let Action::Again { first: back } = s.action else { continue };
            let part = draft.ends.iter().filter(|e| **e <= i).count();
            let [from, to] = [back, i].map(|i| starts[part] + i - first(part));
            for life in lives.iter_mut().flatten() {
                let steps = life.steps;
                if steps.0 <= to && from <= steps.1 && (steps.0 < from || to < steps.1) {
                    life.steps = (steps.0.min(from), steps.1.max(to));
                }
            }
        }
        let mut placed = Self { offsets: vec![0; lives.len()], lives, starts, slot: [0; 2], peak: [0; 2] };
        for memory in Memory::ALL {
            let m = memory as usize;
            placed.slot[m] = placed.place(draft, memory, Life::in_slot);
            for part in 0..draft.ends.len() {
                let peak = placed.place(draft, memory, |life| !life.in_slot() && life.parts.0 == part);
                placed.peak[m] = placed.peak[m].max(peak);
            }
        }
        placed
    }

    /// Places the blocks in `memory` that `wanted` accepts beside one another; the bytes they need.
    fn place(&mut self, draft: &Draft<'_>, memory: Memory, wanted: impl Fn(&Life) -> bool) -> usize {
        let here = |l: usize| draft.layout.locals[l].memory == memory;
        let of = |(l, life): (usize, &Option<Life>)| life.filter(|life| here(l) && wanted(life)).map(|life| (l, life));
        let used: Vec<(usize, Life)> = self.lives.iter().enumerate().filter_map(of).collect();
        let block = |(l, life): &(usize, Life)| Block {
            bytes: draft.layout.locals[*l].bytes,
            first: life.steps.0,
            last: life.steps.1,
        };
        let (offsets, peak) = place(&used.iter().map(block).collect::<Vec<_>>());
        for ((l, _), o) in used.iter().zip(offsets) {
            self.offsets[*l] = o;
        }
        peak
    }
}

/// How many micro-batches a stage has room for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Room {
    /// Slots of micro-batches in flight, or of their slices.
    pub slots: usize,
    /// Caches of micro-batches whose slices are under way.
    pub caches: usize,
}

/// What one memory of a stage is divided into: named buffers, then slots, then caches, then what programs share.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Division {
    /// Where slots begin.
    pub slots_at: usize,
    /// Size of a slot.
    pub slot_bytes: usize,
    /// Where caches begin.
    pub caches_at: usize,
    /// Size of the caches of a micro-batch.
    pub cache_bytes: usize,
    /// Where programs' own values begin.
    shared: usize,
    /// All of it.
    bytes: usize,
}

/// Gives every place its offset: named buffers first, then slots and caches, then the locals of each program over one another,
/// since programs run one at a time. Without a pipeline there are no slots.
pub(super) fn assemble(contents: &Contents<'_>) -> Stage {
    assemble_with(contents, Room::default()).0
}

/// As [`assemble`], with what passes between each chunk of a pipeline's stage and its neighbours, and how each memory is divided.
pub(super) fn assemble_with(contents: &Contents<'_>, room: Room) -> (Stage, Vec<Chunk>, [Division; 2]) {
    let Contents { named, setup, drafts } = contents;
    let mut buffers: Vec<Buffer> = vec![];
    let mut base = [0; 2];
    let mut cache_bytes = [0; 2];
    for n in named {
        let bytes = n.ty.bytes();
        let of = if is_cache(&n.role) { &mut cache_bytes } else { &mut base };
        let base = &mut of[n.memory as usize];
        buffers.push(Buffer {
            name: n.name.clone(),
            dtype: n.ty.dtype,
            dims: n.ty.dims.clone(),
            memory: n.memory,
            offset: *base,
            bytes,
            role: n.role.clone(),
            sharding: n.sharding.clone(),
            live: None,
        });
        *base += align(bytes);
    }
    let placed: Vec<Placed> = drafts.iter().map(Placed::of).collect();
    let divided = Memory::ALL.map(|memory| {
        let m = memory as usize;
        let most = |of: fn(&Placed) -> [usize; 2]| placed.iter().map(|p| of(p)[m]).max().unwrap_or(0);
        let slot_bytes = align(most(|p| p.slot));
        let caches_at = base[m] + room.slots * slot_bytes;
        let shared = caches_at + room.caches * cache_bytes[m];
        let bytes = shared + most(|p| p.peak);
        Division { slots_at: base[m], slot_bytes, caches_at, cache_bytes: cache_bytes[m], shared, bytes }
    });
    for b in buffers.iter_mut().filter(|b| is_cache(&b.role)) {
        let Division { caches_at, cache_bytes: stride, .. } = divided[b.memory as usize];
        b.offset += caches_at;
        b.role = BufferRole::Cache { stride };
    }
    let mut programs = vec![];
    if !setup.is_empty() {
        let step = |(op, outs, loc): &(athanor_ir::Op, Vec<usize>, athanor_ir::Loc)| {
            Step::new(Action::Op(op.clone()), vec![], outs.clone(), loc.clone())
        };
        programs.push(Program { name: "setup".into(), steps: setup.iter().map(step).collect(), results: vec![] });
    }
    let mut chunks = vec![];
    for (draft, placed) in drafts.iter().zip(&placed) {
        let mut maker = Maker { draft, placed, named, divided: &divided, buffers: &mut buffers, index: HashMap::new() };
        let own = maker.programs();
        programs.extend(own);
        chunks.extend(maker.chunk());
    }
    let [arena_bytes, host_bytes] = divided.map(|d| d.bytes);
    (Stage { arena_bytes, host_bytes, buffers, programs, pipeline: None }, chunks, divided)
}

fn is_cache(role: &BufferRole) -> bool {
    matches!(role, BufferRole::Cache { .. })
}

/// Turns the places of a draft into buffers.
struct Maker<'a> {
    draft: &'a Draft<'a>,
    placed: &'a Placed,
    named: &'a [Named],
    /// By memory.
    divided: &'a [Division; 2],
    buffers: &'a mut Vec<Buffer>,
    index: HashMap<(Place, TensorType), usize>,
}

impl Maker<'_> {
    /// The buffer at `place`, for a step of part `part`.
    fn buffer(&mut self, (place, ty): &(Place, TensorType), scratch: bool) -> usize {
        if let Home::Named(n) = place.home
            && place.offset == 0
            && self.named[n].ty == *ty
        {
            return n;
        }
        if let Some(known) = self.index.get(&(*place, ty.clone())) {
            return *known;
        }
        let memory = match place.home {
            Home::Named(n) => self.named[n].memory,
            Home::Local(l) => self.draft.layout.locals[l].memory,
        };
        let Division { slots_at, slot_bytes: stride, shared, .. } = self.divided[memory as usize];
        let plain = if scratch { BufferRole::Scratch } else { BufferRole::Activation };
        let (start, live, role) = match place.home {
            Home::Named(n) if is_cache(&self.buffers[n].role) => {
                (self.buffers[n].offset, None, self.buffers[n].role.clone())
            }
            Home::Named(n) => (self.buffers[n].offset, None, plain),
            Home::Local(l) => match &self.placed.lives[l] {
                Some(life) if life.in_slot() => {
                    let chunk = self.draft.parts.crossing.as_ref().map_or(0, |c| c.chunk);
                    (slots_at + self.placed.offsets[l], Some(life.steps), BufferRole::Stash { chunk, stride })
                }
                life => {
                    let within = |life: &Life| {
                        let start = self.placed.starts[life.parts.0];
                        (life.steps.0 - start, life.steps.1 - start)
                    };
                    (shared + self.placed.offsets[l], life.as_ref().map(within), plain)
                }
            },
        };
        self.buffers.push(Buffer {
            name: format!("{}.{}", self.draft.func.name, self.buffers.len()),
            dtype: ty.dtype,
            dims: ty.dims.clone(),
            memory,
            offset: start + place.offset,
            bytes: ty.bytes(),
            role,
            sharding: Sharding::default(),
            live,
        });
        self.index.insert((*place, ty.clone()), self.buffers.len() - 1);
        self.buffers.len() - 1
    }

    /// The programs of the draft's parts.
    fn programs(&mut self) -> Vec<Program> {
        let draft = self.draft;
        let defs = draft.func.defs();
        let mut first = 0;
        let mut programs = vec![];
        for (part, end) in draft.ends.iter().enumerate() {
            let mut steps = Vec::with_capacity(end - first);
            for (i, s) in (first..*end).zip(&draft.steps[first..*end]) {
                let inputs = s.inputs.iter().map(|x| self.buffer(x, false)).collect();
                let mut outputs: Vec<usize> = s.outputs.iter().map(|x| self.buffer(x, false)).collect();
                outputs.extend(s.scratch.iter().map(|x| self.buffer(x, true)));
                let loc = s.node.map(|n| draft.func.nodes[n].loc.clone()).unwrap_or_default();
                let stream = if draft.beside.contains_key(&i) { Stream::Communication } else { Stream::Compute };
                let action = match s.action {
                    Action::Again { first: back } => Action::Again { first: back - first },
                    ref action => action.clone(),
                };
                steps.push(Step { stream, ..Step::new(action, inputs, outputs, loc) });
            }
            if !draft.beside.is_empty() {
                wait(self.buffers, &mut steps);
            }
            let of_part = |r: &&athanor_ir::FuncResult| draft.parts.part(defs[r.value.0 as usize]) == part;
            let own: Vec<_> = draft.func.results.iter().filter(of_part).collect();
            let results = own.iter().map(|r| (r.name.clone(), self.buffer(&draft.of(r.value), false))).collect();
            programs.push(Program { name: draft.parts.program(part, &draft.func.name), steps, results });
            first = *end;
        }
        programs
    }

    /// What passes between the chunk and its neighbours.
    fn chunk(&mut self) -> Option<Chunk> {
        let c = self.draft.parts.crossing.as_ref()?;
        let mut of = |values: &[athanor_ir::ValueId]| -> Vec<usize> {
            values.iter().map(|v| self.buffer(&self.draft.of(*v), false)).collect()
        };
        Some(Chunk {
            arrives: of(&c.arrives),
            leaves: of(&c.leaves),
            returns: of(&c.returns),
            goes_back: of(&c.goes_back),
        })
    }
}
