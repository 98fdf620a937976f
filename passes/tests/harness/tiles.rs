//! Tile registers for machines that have none: each tile instruction traps, and is carried out here.
//!
//! Kernels for tiles are then tested as they are, instruction by instruction, only slowly. The instructions and what they
//! do are those of Intel's manual, volume 2: loads, stores, zeroing, configuration, the product of bf16 pairs, and the
//! rounding of vectors to bf16, which machines without tiles lack, too.

use std::cell::UnsafeCell;
use std::mem::{MaybeUninit, zeroed};
use std::sync::Once;

const ROWS: usize = 16;
const ROW_BYTES: usize = 64;

/// What a thread's tile registers hold.
struct Tiles {
    data: [[[u8; ROW_BYTES]; ROWS]; 8],
    rows: [usize; 8],
    row_bytes: [usize; 8],
}

thread_local! {
    static TILES: UnsafeCell<Tiles> =
        const { UnsafeCell::new(Tiles { data: [[[0; ROW_BYTES]; ROWS]; 8], rows: [0; 8], row_bytes: [0; 8] }) };
}

/// From now on tile instructions of this process are carried out, whether the CPU has them or not.
pub fn emulate() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_illegal_instruction;
        // SAFETY: all zeros is a valid `sigaction` without flags and with an empty mask.
        let mut action: libc::sigaction = unsafe { zeroed() };
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the handler touches nothing but this thread's tiles and what the instruction names.
        let result = unsafe { libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut()) };
        assert_eq!(result, 0, "no handler for illegal instructions");
    });
}

extern "C" fn on_illegal_instruction(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system passes the context that it interrupted, which is ours until we return.
    let machine = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext };
    let registers = &mut machine.gregs;
    let pc = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: the CPU has just fetched an instruction there; no tile instruction is longer than 11 bytes, and code is padded.
    let bytes = unsafe { std::slice::from_raw_parts(pc, 11) };
    let done = Instruction::decode(bytes).is_some_and(|one| {
        registers[libc::REG_RIP as usize] += one.len as i64;
        if (one.opcode, one.prefix) == (0x72, 2) {
            // SAFETY: the state of the vector registers is part of the context.
            unsafe { round_to_bf16(&one, registers, machine.fpregs.cast()) };
            return true;
        }
        // SAFETY: only this thread reaches its tiles, and the handler does not nest.
        TILES.with(|tiles| unsafe { (*tiles.get()).run(&one, registers) })
    });
    if !done {
        // Not ours: it is met again without a handler, and ends the process as it would have.
        // SAFETY: sets the default action.
        unsafe { libc::signal(libc::SIGILL, libc::SIG_DFL) };
    }
}

/// A memory operand: base + index · scale + displacement.
struct Address {
    base: Option<usize>,
    index: Option<usize>,
    scale: i64,
    displacement: i64,
}

impl Address {
    /// Where it starts, and what the index adds.
    fn parts(&self, registers: &[i64; 23]) -> (i64, i64) {
        let value = |register: Option<usize>| register.map_or(0, |r| registers[REGISTERS[r] as usize]);
        (value(self.base) + self.displacement, value(self.index) * self.scale)
    }
}

/// An instruction that traps; `prefix` 0 to 3 is none, 66, F3, F2.
struct Instruction {
    prefix: u8,
    opcode: u8,
    wide: bool,
    reg: usize,
    rm: usize,
    vvvv: usize,
    memory: Option<Address>,
    len: usize,
}

/// Positions of the sixteen registers in a context, in the order of their encoding.
const REGISTERS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

impl Instruction {
    /// A three-byte VEX instruction of the map 0F38, W0.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let [0xc4, map, w, opcode, modrm, ..] = *bytes else { return None };
        if map & 0x1f != 2 || w & 0x80 != 0 {
            return None;
        }
        let [r, x, b] = [7, 6, 5].map(|bit| usize::from(!map >> bit & 1));
        let mut one = Self {
            prefix: w & 3,
            opcode,
            wide: w & 4 != 0,
            reg: usize::from(modrm >> 3 & 7) + 8 * r,
            rm: usize::from(modrm & 7),
            vvvv: usize::from(!w >> 3 & 7),
            memory: None,
            len: 5,
        };
        let mode = modrm >> 6;
        if mode == 3 {
            one.rm += 8 * b;
            return Some(one);
        }
        let mut address = Address { base: Some(one.rm + 8 * b), index: None, scale: 1, displacement: 0 };
        if one.rm == 4 {
            let sib = bytes[5];
            one.len += 1;
            address.base = Some(usize::from(sib & 7) + 8 * b);
            address.index = Some(usize::from(sib >> 3 & 7) + 8 * x).filter(|i| *i != 4);
            address.scale = 1 << (sib >> 6);
        }
        let word = |at: usize| i64::from(i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default()));
        match mode {
            0 if one.rm == 5 => return None, // relative to the program counter: no compiler puts tiles there
            0 if one.rm == 4 && bytes[5] & 7 == 5 => {
                (address.base, address.displacement) = (None, word(one.len));
                one.len += 4;
            }
            1 => {
                address.displacement = i64::from(bytes[one.len] as i8);
                one.len += 1;
            }
            2 => {
                address.displacement = word(one.len);
                one.len += 4;
            }
            _ => {}
        }
        one.memory = Some(address);
        Some(one)
    }
}

/// Where the low halves of the vector registers lie in a saved state, and where the high halves do.
const LOW: usize = 160;
const HIGH: usize = 576;

/// Rounds four or eight f32 to bf16, to nearest even.
///
/// # Safety
/// `state` must be the saved vector registers with AVX, and the operand in memory readable.
unsafe fn round_to_bf16(one: &Instruction, registers: &[i64; 23], state: *mut u8) {
    let count = if one.wide { 8 } else { 4 };
    let mut from = [0u32; 8];
    for (i, bits) in from[..count].iter_mut().enumerate() {
        let half = if i < 4 { LOW } else { HIGH };
        // SAFETY: each half of a register is 16 bytes, and the operand in memory as long as the vector.
        *bits = unsafe {
            match &one.memory {
                None => state.add(half + 16 * one.rm + 4 * (i % 4)).cast::<u32>().read_unaligned(),
                Some(m) => {
                    let (start, index) = m.parts(registers);
                    ((start + index) as *const u32).add(i).read_unaligned()
                }
            }
        };
    }
    let mut to = [0u8; 32];
    for (bits, place) in from[..count].iter().zip(to.chunks_exact_mut(2)) {
        let nan = bits & 0x7fff_ffff > 0x7f80_0000;
        let rounded = if nan { bits >> 16 | 0x40 } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 };
        place.copy_from_slice(&(rounded as u16).to_le_bytes());
    }
    // SAFETY: as above; the rest of the result's register becomes zero.
    unsafe {
        std::ptr::copy_nonoverlapping(to.as_ptr(), state.add(LOW + 16 * one.reg), 16);
        std::ptr::copy_nonoverlapping(to[16..].as_ptr(), state.add(HIGH + 16 * one.reg), 16);
    }
}

impl Tiles {
    /// Carries `one`, an instruction on tiles, out; false if it is none of ours.
    ///
    /// # Safety
    /// The memory that it names must be what a CPU may read or write there.
    unsafe fn run(&mut self, one: &Instruction, registers: &[i64; 23]) -> bool {
        if one.wide || one.reg > 7 || one.rm > 7 {
            return false;
        }
        let (start, stride) = one.memory.as_ref().map_or((0, 0), |m| m.parts(registers));
        let row = |r: usize| (start + r as i64 * stride) as *mut u8;
        let (rows, width) = (self.rows[one.reg], self.row_bytes[one.reg]);
        match (one.opcode, one.prefix, one.memory.is_some()) {
            (0x49, 0, true) => {
                let mut config = MaybeUninit::<[u8; 64]>::uninit();
                // SAFETY: the operand is 64 bytes.
                let config = unsafe {
                    std::ptr::copy_nonoverlapping(start as *const u8, config.as_mut_ptr().cast(), 64);
                    config.assume_init()
                };
                for tile in 0..8 {
                    self.row_bytes[tile] =
                        usize::from(u16::from_le_bytes([config[16 + 2 * tile], config[17 + 2 * tile]]));
                    self.rows[tile] = usize::from(config[48 + tile]);
                    if self.rows[tile] > ROWS || self.row_bytes[tile] > ROW_BYTES {
                        return false;
                    }
                }
                self.data = [[[0; ROW_BYTES]; ROWS]; 8];
            }
            (0x49, 0, false) => (self.rows, self.row_bytes) = ([0; 8], [0; 8]),
            (0x49, 3, false) => self.data[one.reg] = [[0; ROW_BYTES]; ROWS],
            (0x4b, 1 | 3, true) => {
                self.data[one.reg] = [[0; ROW_BYTES]; ROWS];
                for r in 0..rows {
                    // SAFETY: a load reads `row_bytes` bytes of each row.
                    unsafe { std::ptr::copy_nonoverlapping(row(r), self.data[one.reg][r].as_mut_ptr(), width) };
                }
            }
            (0x4b, 2, true) => {
                for r in 0..rows {
                    // SAFETY: a store writes `row_bytes` bytes of each row.
                    unsafe { std::ptr::copy_nonoverlapping(self.data[one.reg][r].as_ptr(), row(r), width) };
                }
            }
            (0x5c, 2, false) => self.multiply(one.reg, one.rm, one.vvvv),
            _ => return false,
        }
        true
    }

    /// `c[m][n] += Σ a[m][2k]·b[k][2n] + a[m][2k+1]·b[k][2n+1]` with bf16 operands and f32 sums.
    fn multiply(&mut self, c: usize, a: usize, b: usize) {
        let bf16 = |row: &[u8; ROW_BYTES], at: usize| {
            f32::from_bits(u32::from(u16::from_le_bytes([row[2 * at], row[2 * at + 1]])) << 16)
        };
        for m in 0..self.rows[c] {
            for n in 0..self.row_bytes[c] / 4 {
                let place = 4 * n..4 * n + 4;
                let mut sum = f32::from_le_bytes(self.data[c][m][place.clone()].try_into().unwrap_or_default());
                for k in 0..self.row_bytes[a] / 4 {
                    let (left, right) = (&self.data[a][m], &self.data[b][k]);
                    sum += bf16(left, 2 * k + 1) * bf16(right, 2 * n + 1);
                    sum += bf16(left, 2 * k) * bf16(right, 2 * n);
                }
                self.data[c][m][place].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
}
