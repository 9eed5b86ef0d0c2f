//! Finds which elements of two equally long buffers differ, at memory speed where most are equal.
//!
//! The result is exact: a range covers whole elements, its first and its last element differ, no differing byte
//! lies outside of a range, and ranges are sorted and do not touch. The instruction set is chosen at run time; every
//! choice gives the same ranges, because both implement the two scans of [`Scan`] and all else is shared.

#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(test)]
mod tests;

/// The two scans that are worth an instruction set of their own. Both look at the common length only.
trait Scan {
    /// The offset of the first byte that differs.
    fn first_difference(&self, a: &[u8], b: &[u8]) -> Option<usize>;
    /// The length of the leading run of whole lanes of `width` bytes (1, 2, 4 or 8) that all differ.
    fn changed_run(&self, a: &[u8], b: &[u8], width: usize) -> usize;
}

/// Fills `out` with the byte ranges of the elements that differ between `a` and `b`.
///
/// Elements have `itemsize` bytes and count from offset 0; the last one may be cut by the end. Ranges are
/// `(start, stop)`, sorted, with touching ones joined. Of buffers that differ in length the common length is compared.
pub fn diff_ranges(a: &[u8], b: &[u8], itemsize: usize, out: &mut Vec<(u64, u64)>) {
    out.clear();
    diff_ranges_at(a, b, 0, a.len().min(b.len()) as u64, itemsize, out);
}

/// Adds to `out` what differs in one part of a page: `a` and `b` lie at offset `at` of a page of `len` bytes.
///
/// Elements count from the start of the page, so a range may reach out of the part. When parts are given in rising
/// order, a range that meets the last one in `out` is joined to it.
pub fn diff_ranges_at(
    a: &[u8],
    b: &[u8],
    at: u64,
    len: u64,
    itemsize: usize,
    out: &mut Vec<(u64, u64)>,
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = simd::Avx2::detect() {
        return walk(&avx2, a, b, at, len, itemsize, out);
    }
    walk(&Portable, a, b, at, len, itemsize, out);
}

/// The offset of the first byte that differs in the common length of `a` and `b`.
pub fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = simd::Avx2::detect() {
        return avx2.first_difference(a, b);
    }
    Portable.first_difference(a, b)
}

fn walk<S: Scan>(
    scan: &S,
    a: &[u8],
    b: &[u8],
    at: u64,
    len: u64,
    itemsize: usize,
    out: &mut Vec<(u64, u64)>,
) {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let item = itemsize.max(1) as u64;
    // Lanes of this width never straddle two elements, so a run of changed lanes is a run of changed elements.
    let lane = 1 << item.trailing_zeros().min(3);
    let lane_bits = u64::MAX >> (64 - 8 * lane);
    let mut pos = 0;
    while let Some(found) = scan.first_difference(&a[pos..], &b[pos..]) {
        let changed = at + (pos + found) as u64;
        let start = changed - changed % item;
        let mut stop = start.saturating_add(item);
        pos = inside(stop, at, n);
        // A lone change is common (one column of a table), and cheaper to see here than in a call.
        if next_word(&a[pos..], &b[pos..]).is_none_or(|word| word & lane_bits != 0) {
            let run = scan.changed_run(&a[pos..], &b[pos..], lane) as u64;
            stop = stop.saturating_add(run.div_ceil(item).saturating_mul(item));
            pos = inside(stop, at, n);
        }
        let stop = stop.min(len);
        match out.last_mut() {
            Some(last) if last.1 >= start => last.1 = last.1.max(stop),
            _ => out.push((start, stop)),
        }
    }
}

/// The bits that differ in the next eight bytes, the first byte lowest.
fn next_word(a: &[u8], b: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*a.first_chunk()?) ^ u64::from_le_bytes(*b.first_chunk()?))
}

/// Where page offset `stop` lies in a part of `n` bytes that begins at page offset `at`.
fn inside(stop: u64, at: u64, n: usize) -> usize {
    usize::try_from(stop - at).map_or(n, |p| p.min(n))
}

/// The twin that runs everywhere.
struct Portable;

impl Scan for Portable {
    #[inline]
    fn first_difference(&self, a: &[u8], b: &[u8]) -> Option<usize> {
        let n = a.len().min(b.len());
        let ((wide_a, _), (wide_b, _)) = (a[..n].as_chunks::<64>(), b[..n].as_chunks::<64>());
        let mut pos =
            64 * wide_a.iter().zip(wide_b).position(|(x, y)| !equal(x, y)).unwrap_or(wide_a.len());
        let ((words_a, _), (words_b, _)) = (a[pos..n].as_chunks::<8>(), b[pos..n].as_chunks::<8>());
        for (x, y) in words_a.iter().zip(words_b) {
            let changed = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
            if changed != 0 {
                return Some(pos + changed.trailing_zeros() as usize / 8);
            }
            pos += 8;
        }
        let rest = a[pos..n].iter().zip(&b[pos..n]).position(|(x, y)| x != y)?;
        Some(pos + rest)
    }

    #[inline]
    fn changed_run(&self, a: &[u8], b: &[u8], width: usize) -> usize {
        match width {
            8 => run_of::<8>(a, b),
            4 => run_of::<4>(a, b),
            2 => run_of::<2>(a, b),
            _ => run_of::<1>(a, b),
        }
    }
}

fn run_of<const W: usize>(a: &[u8], b: &[u8]) -> usize {
    let lanes = a.as_chunks::<W>().0.iter().zip(b.as_chunks::<W>().0);
    lanes.take_while(|(x, y)| x != y).count() * W
}

/// Compares without a branch per word, which the compiler turns into the vectors that the target always has.
fn equal(a: &[u8; 64], b: &[u8; 64]) -> bool {
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    words.fold(0, |all, (x, y)| all | (u64::from_ne_bytes(*x) ^ u64::from_ne_bytes(*y))) == 0
}
