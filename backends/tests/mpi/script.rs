//! What ranks do, on any engine.

use athanor_backends::comm::{Communicator, Engine};
use athanor_ir::op::ReduceKind::{Max, Sum};
use athanor_ir::{DType, Result};
use std::time::Duration;

/// Bytes of rank `rank`: as numbers of any dtype they are of many sizes and signs, so that sums depend on their order.
fn data(rank: usize, seed: usize, dtype: DType, elements: usize) -> Vec<u8> {
    let element = |i: usize| {
        let mut x = ((rank + 1) * 0x9e37_79b9 + seed * 0x85eb_ca6b + i * 0xc2b2_ae35) as u64;
        x = (x ^ (x >> 15)).wrapping_mul(0xd168_aaad_2c6f_5a1b);
        x ^= x >> 29;
        let value = ((x % 2001) as f64 - 1000.0) * if x.is_multiple_of(7) { 1.37 } else { 1.1e-3 };
        match dtype {
            DType::F64 => value.to_ne_bytes().to_vec(),
            DType::F32 => (value as f32).to_ne_bytes().to_vec(),
            DType::BF16 => half::bf16::from_f64(value).to_ne_bytes().to_vec(),
            DType::F16 => half::f16::from_f64(value).to_ne_bytes().to_vec(),
            DType::I32 => (x as i32).to_ne_bytes().to_vec(),
        }
    };
    (0..elements).flat_map(element).collect()
}

const DTYPES: [DType; 5] = [DType::F64, DType::F32, DType::BF16, DType::F16, DType::I32];

/// Every call on a group, with data of `scale` elements and less; gives all that was received.
fn calls(comm: &mut dyn Communicator, rank: usize, scale: usize) -> Result<Vec<Vec<u8>>> {
    let (at, n) = (comm.rank(), comm.size());
    let mut got = vec![];
    for (seed, dtype) in DTYPES.into_iter().enumerate() {
        for kind in [Sum, Max] {
            for elements in [0, 1, n + 1, scale] {
                let own = data(rank, seed, dtype, elements * n);
                let bytes = elements * dtype.bytes();
                let mut sum = own[..bytes].to_vec();
                comm.all_reduce(kind, dtype, &mut sum)?;
                let mut part = vec![0; bytes];
                comm.reduce_scatter(kind, dtype, &own, &mut part)?;
                let mut whole = vec![0; bytes * n];
                comm.all_gather(&part, &mut whole)?;
                let mut exchanged = vec![0; bytes * n];
                comm.all_to_all(&own, &mut exchanged)?;
                got.extend([sum, part, whole, exchanged]);
            }
        }
    }
    // Parts of any size, some empty.
    let size = |from: usize, to: usize| (from * 5 + to * 3) % 4 * scale;
    let sent: Vec<usize> = (0..n).map(|to| size(at, to)).collect();
    let received: Vec<usize> = (0..n).map(|from| size(from, at)).collect();
    let from = data(rank, 11, DType::I32, sent.iter().sum::<usize>() / 4 + 1);
    let mut to = vec![0; received.iter().sum()];
    comm.all_to_all_v(&from[..sent.iter().sum()], &sent, &mut to, &received)?;
    got.push(to);
    for root in 0..n {
        let mut all = data(rank, root, DType::F32, scale);
        comm.broadcast(root, &mut all)?;
        got.push(all);
    }
    comm.barrier()?;
    if n > 1 {
        // A ring both ways, two messages in one of them, and one that is empty.
        let (next, before) = ((at + 1) % n, (at + n - 1) % n);
        let out = [scale, 3, 2 * scale, 0].map(|n| data(rank, n, DType::F32, n));
        let mut ins = out.clone().map(|m| vec![0; m.len()]);
        let [a, b, c, d] = &mut ins;
        comm.exchange(
            &[(next, &out[0]), (before, &out[1]), (next, &out[2]), (next, &out[3])],
            &mut [(before, a), (next, b), (before, c), (before, d)],
        )?;
        got.extend(ins);
        let mut token = vec![0; 9];
        if at == 0 {
            comm.send(n - 1, &data(rank, 5, DType::I32, 3)[..9])?;
        } else if at == n - 1 {
            comm.receive(0, &mut token)?;
        }
        got.push(token);
    }
    Ok(got)
}

/// Calls on the group of all, on the group of all backwards, and on halves whose members call in turns with the whole.
pub fn all(engine: &dyn Engine) -> Result<Vec<Vec<u8>>> {
    let (rank, n) = (engine.rank(), engine.size());
    let members: Vec<usize> = (0..n).collect();
    let mut whole = engine.group(&members)?;
    let mut got = calls(&mut *whole, rank, 700)?;
    let backwards: Vec<usize> = members.iter().rev().copied().collect();
    let mut turned = engine.group(&backwards)?;
    got.extend(calls(&mut *turned, rank, 33)?);
    let (even, odd): (Vec<usize>, Vec<usize>) = members.iter().partition(|m| m.is_multiple_of(2));
    let mut half = engine.group(if rank.is_multiple_of(2) { &even } else { &odd })?;
    for seed in 0..20 {
        for comm in [&mut half, &mut whole, &mut turned] {
            let mut x = data(rank, seed, DType::F32, 5);
            comm.all_reduce(Sum, DType::F32, &mut x)?;
            got.push(x);
        }
    }
    got.extend(calls(&mut *half, rank, 12)?);
    Ok(got)
}

/// Calls on data of several megabytes.
pub fn large(engine: &dyn Engine) -> Result<Vec<Vec<u8>>> {
    let members: Vec<usize> = (0..engine.size()).collect();
    let mut comm = engine.group(&members)?;
    let own = data(engine.rank(), 1, DType::F32, 6_000_000);
    let mut sum = own.clone();
    comm.all_reduce(Sum, DType::F32, &mut sum)?;
    let mut part = vec![0; own.len() / members.len()];
    comm.reduce_scatter(Max, DType::F32, &own, &mut part)?;
    let mut whole = vec![0; own.len()];
    comm.all_gather(&part, &mut whole)?;
    let other = 1 - engine.rank();
    comm.exchange(&[(other, &sum)], &mut [(other, &mut part.repeat(members.len()))])?;
    Ok(vec![sum, part, whole])
}

type Failing = fn(&dyn Engine) -> Result<()>;

fn group(engine: &dyn Engine) -> Result<Box<dyn Communicator>> {
    engine.group(&(0..engine.size()).collect::<Vec<_>>())
}

/// What goes wrong on three ranks, with the time limit.
pub const FAILURES: &[(&str, Duration, Failing)] = &[
    ("leaves", Duration::from_mins(1), |engine| {
        let mut comm = group(engine)?;
        comm.barrier()?;
        if engine.rank() == 1 { Ok(()) } else { comm.barrier() }
    }),
    ("never-sends", Duration::from_mins(1), |engine| {
        let mut comm = group(engine)?;
        comm.barrier()?;
        if engine.rank() == 0 { comm.receive(1, &mut [0]) } else { Ok(()) }
    }),
    ("late", Duration::from_secs(1), |engine| {
        let mut comm = group(engine)?;
        comm.barrier()?;
        if engine.rank() == 1 {
            std::thread::sleep(Duration::from_secs(4));
            Ok(())
        } else {
            comm.all_reduce(Sum, DType::F32, &mut [0; 8])
        }
    }),
    ("other-call", Duration::from_mins(1), |engine| {
        let mut comm = group(engine)?;
        if engine.rank() == 0 {
            comm.all_reduce(Sum, DType::F32, &mut [0; 8])
        } else {
            comm.all_gather(&[0; 8], &mut [0; 24])
        }
    }),
    ("other-dtype", Duration::from_mins(1), |engine| {
        let dtype = if engine.rank() == 2 { DType::BF16 } else { DType::F32 };
        group(engine)?.all_reduce(Max, dtype, &mut [0; 8])
    }),
    ("other-size", Duration::from_mins(1), |engine| {
        let mut comm = group(engine)?;
        match engine.rank() {
            0 => comm.send(1, &[0; 3]),
            1 => comm.receive(0, &mut [0; 4]),
            _ => Ok(()),
        }
    }),
    ("other-parts", Duration::from_mins(1), |engine| {
        let sent = if engine.rank() == 2 { [1, 3, 2] } else { [2; 3] };
        group(engine)?.all_to_all_v(&[0; 6], &sent, &mut [0; 6], &[2; 3])
    }),
    ("bad-group", Duration::from_mins(1), |engine| engine.group(&[0, 1, 2, 2]).map(|_| ())),
    ("bad-size", Duration::from_mins(1), |engine| group(engine)?.all_gather(&[0; 4], &mut [0; 4])),
];
