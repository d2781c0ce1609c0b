//! An erasure code over a few datagrams: as many lost ones come back as there are rows of parity.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::hop::{MAX_PARITY_ROWS, PARITY_SPAN};

/// A datagram of a group: its position, 0 to 15, and its body.
pub(super) type Member = (u16, Bytes);

/// One row of parity over the bodies of a group.
///
/// The code is systematic, with the coefficients of a Cauchy matrix over GF(2^8) (Blömer et al., "An XOR-based
/// erasure-resilient coding scheme", ICSI TR-95-048): any rows restore as many bodies, because every square part of such a
/// matrix can be inverted. Bodies of different lengths are filled up with zeros behind their length in two bytes.
pub(super) fn encode(row: u8, group: &[Member]) -> Bytes {
    let len = group.iter().map(|(_, body)| LEN + body.len()).max().unwrap_or(0);
    let mut out = vec![0; len];
    for (position, body) in group {
        add(&mut out, coefficient(row, *position), body);
    }
    out.into()
}

/// The bodies at the positions `missing` of a group, from all others of it and at least as many rows (number and data).
/// None when what is given contradicts itself: somebody sends nonsense.
pub(super) fn restore(missing: &[u16], known: &[Member], rows: &[(u8, Bytes)]) -> Option<Vec<Member>> {
    let (rows, len) = (rows.get(..missing.len())?, rows.first()?.1.len());
    if rows.iter().any(|(_, data)| data.len() != len) || known.iter().any(|(_, b)| LEN + b.len() > len) {
        return None;
    }
    // What each row says of the missing ones alone, beside its coefficients for them.
    let mut system: Vec<(Vec<u8>, Vec<u8>)> = rows
        .iter()
        .map(|(row, data)| {
            let mut rest = data.to_vec();
            known.iter().for_each(|(position, body)| add(&mut rest, coefficient(*row, *position), body));
            (missing.iter().map(|position| coefficient(*row, *position)).collect(), rest)
        })
        .collect();
    // Gauss and Jordan.
    for at in 0..missing.len() {
        let pivot = (at..system.len()).find(|n| system[*n].0[at] != 0)?;
        system.swap(at, pivot);
        let scale = inverse(system[at].0[at]);
        let (factors, data) = &mut system[at];
        factors.iter_mut().chain(data.iter_mut()).for_each(|byte| *byte = multiply(scale, *byte));
        let (factors, data) = system[at].clone();
        for (n, (others, rest)) in system.iter_mut().enumerate() {
            let factor = others[at];
            if n != at && factor != 0 {
                add_row(others, factor, &factors);
                add_row(rest, factor, &data);
            }
        }
    }
    missing.iter().zip(system).map(|(position, (_, data))| Some((*position, unframe(data)?))).collect()
}

/// Adds a body behind its length, multiplied.
fn add(out: &mut [u8], factor: u8, body: &Bytes) {
    let mut framed = BytesMut::with_capacity(LEN + body.len());
    framed.put_u16(body.len() as u16);
    framed.put_slice(body);
    add_row(out, factor, &framed);
}

fn add_row(out: &mut [u8], factor: u8, row: &[u8]) {
    // One line of the multiplication table: a body takes a microsecond.
    let products: [u8; 256] = std::array::from_fn(|byte| multiply(factor, byte as u8));
    out.iter_mut().zip(row).for_each(|(out, byte)| *out ^= products[usize::from(*byte)]);
}

fn unframe(data: Vec<u8>) -> Option<Bytes> {
    let (len, body) = data.split_first_chunk::<LEN>()?;
    let len = usize::from(u16::from_be_bytes(*len));
    let filled = body.get(len..)?;
    filled.iter().all(|byte| *byte == 0).then(|| Bytes::from(data).slice(LEN..LEN + len))
}

/// Of a Cauchy matrix: one over the sum of two numbers, of which one names the row and the other the column.
fn coefficient(row: u8, position: u16) -> u8 {
    debug_assert!(position < PARITY_SPAN && usize::from(row) < MAX_PARITY_ROWS);
    inverse((PARITY_SPAN as u8 + row) ^ position as u8)
}

fn multiply(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    let sum = u16::from(TABLES.log[usize::from(a)]) + u16::from(TABLES.log[usize::from(b)]);
    TABLES.exp[usize::from(sum % 255)]
}

/// Of a number that is not zero.
fn inverse(a: u8) -> u8 {
    TABLES.exp[(255 - usize::from(TABLES.log[usize::from(a)])) % 255]
}

struct Tables {
    exp: [u8; 255],
    log: [u8; 256],
}

/// Powers of 2, a generator of the field's multiplication, and which power each number is.
static TABLES: Tables = {
    let mut tables = Tables { exp: [0; 255], log: [0; 256] };
    let (mut power, mut value) = (0, 1_u16);
    while power < 255 {
        tables.exp[power] = value as u8;
        tables.log[value as usize] = power as u8;
        value <<= 1;
        if value > 255 {
            value ^= POLYNOMIAL;
        }
        power += 1;
    }
    tables
};

/// x^8 + x^4 + x^3 + x^2 + 1, primitive, as in most codes over this field.
const POLYNOMIAL: u16 = 0x11d;
/// Bytes of the length before a body.
const LEN: usize = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is lost of a group comes back while there are as many rows.
        #[test]
        fn rows_restore_as_many_bodies(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..=16),
            lost in prop::collection::vec(any::<prop::sample::Index>(), 1..16),
            first_row in 0_u8..8,
        ) {
            let group: Vec<Member> = bodies.into_iter().enumerate().map(|(n, b)| (n as u16, b.into())).collect();
            let mut missing: Vec<u16> = lost.iter().map(|i| i.index(group.len()) as u16).collect();
            missing.sort_unstable();
            missing.dedup();
            missing.truncate(8);
            let rows: Vec<(u8, Bytes)> =
                (first_row..).take(missing.len()).map(|row| (row, encode(row, &group))).collect();
            let known: Vec<Member> = group.iter().filter(|(n, _)| !missing.contains(n)).cloned().collect();
            let restored = restore(&missing, &known, &rows).expect("enough rows");
            for (position, body) in restored {
                prop_assert_eq!(&body, &group[usize::from(position)].1);
            }
            prop_assert_eq!(restore(&missing, &known, &rows[1..]), None, "one row too few");
        }

        #[test]
        fn nonsense_ends_in_nothing(
            known in prop::collection::vec((0_u16..16, prop::collection::vec(any::<u8>(), 0..9)), 0..9),
            rows in prop::collection::vec((0_u8..16, prop::collection::vec(any::<u8>(), 0..9)), 0..9),
            missing in prop::collection::btree_set(0_u16..16, 0..9),
        ) {
            let known: Vec<Member> = known.into_iter().map(|(n, b)| (n, b.into())).collect();
            let rows: Vec<(u8, Bytes)> = rows.into_iter().map(|(n, b)| (n, b.into())).collect();
            let missing: Vec<u16> = missing.into_iter().collect();
            if let Some(restored) = restore(&missing, &known, &rows) {
                prop_assert_eq!(restored.len(), missing.len());
            }
        }
    }
}
