//! Damaged copies of files that are made of length-delimited fields.

/// xorshift64*: the same mutants everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Positions of the lengths of length-delimited fields, as far as the structure of the file can be followed.
pub(crate) fn lengths(bytes: &[u8], base: usize, depth: u32, found: &mut Vec<usize>) -> Option<()> {
    let varint = |at: &mut usize| -> Option<usize> {
        let mut value = 0usize;
        for shift in (0..35).step_by(7) {
            let byte = *bytes.get(*at)?;
            *at += 1;
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    };
    let mut at = 0;
    while at < bytes.len() {
        let tag = varint(&mut at)?;
        match tag & 7 {
            0 => drop(varint(&mut at)?),
            1 => at += 8,
            5 => at += 4,
            2 => {
                let place = base + at;
                let n = varint(&mut at)?;
                let inside = bytes.get(at..at.checked_add(n)?)?;
                found.push(place);
                if depth < 6 && n < 1 << 20 {
                    let known = found.len();
                    if lengths(inside, base + at, depth + 1, found).is_none() {
                        found.truncate(known);
                    }
                }
                at += n;
            }
            _ => return None,
        }
    }
    (at == bytes.len()).then_some(())
}

/// One damaged copy.
pub(crate) fn damage(bytes: &[u8], lengths: &[usize], random: &mut Random) -> Vec<u8> {
    let mut mutant = bytes.to_vec();
    match random.below(6) {
        0 => mutant.truncate(random.below(bytes.len())),
        1 => {
            let i = random.below(bytes.len());
            mutant[i] ^= 1 << random.below(8);
        }
        2 => {
            for _ in 0..=random.below(8) {
                let i = random.below(bytes.len());
                mutant[i] = random.next() as u8;
            }
        }
        3 => {
            let i = lengths[random.below(lengths.len())];
            mutant[i] = [0, 1, 0x7f, 0x80, 0xff, random.next() as u8][random.below(6)];
        }
        4 => {
            // A length of up to 64 bits.
            let i = lengths[random.below(lengths.len())];
            let longer = [0xff; 9].into_iter().take(1 + random.below(9)).chain([1]);
            mutant.splice(i..=i, longer);
        }
        // Structure: near a length are tags, names and small numbers.
        _ => {
            let i = lengths[random.below(lengths.len())];
            let i = (i + random.below(8)).min(bytes.len() - 1);
            mutant[i] = random.next() as u8;
        }
    }
    mutant
}
