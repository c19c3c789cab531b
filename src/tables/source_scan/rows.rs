//! Arithmetic on row ranges: which rows a scan reads, and which partition reads them. Pure.

use std::ops::Range;

use crate::ledger::run::ROW_GROUP_ROWS;
use crate::tables::source_scan::LiveRows;

/// Rows that are read along rather than skipped, where a filter on system columns leaves a gap
/// between two selected rows. Chosen: skipping fewer costs the decoder more than reading them,
/// and it bounds a selection to a fraction of the rows. The plan above drops them again.
const GAP_ROWS: u64 = 8;

/// Rows below which a partition of its own is not worth its start. Chosen.
const PARTITION_ROWS_MIN: u64 = 32 * 1024;

/// Rows of one run that one partition reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// The run's place in the scan's list.
    pub index: usize,
    /// Ascending, disjoint, not empty.
    pub ranges: Vec<Range<u64>>,
}

impl Piece {
    /// How many rows these are.
    pub(super) fn rows(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }
}

/// The live rows among the `selected` ones of a run of `rows` rows, ascending and disjoint.
pub(super) fn select(
    live: &LiveRows,
    rows: u64,
    selected: Option<Vec<Range<u64>>>,
) -> Vec<Range<u64>> {
    let ranges = match selected {
        Some(ranges) => widen(ranges, rows),
        None if rows > 0 => std::iter::once(0..rows).collect(),
        None => Vec::new(),
    };
    match live {
        LiveRows::All => ranges,
        LiveRows::Some(bits) => ranges
            .into_iter()
            .flat_map(|range| {
                // In bounds: the caller checked that there is a bit for each row.
                let (start, end) = (range.start as usize, range.end as usize);
                let slices: Vec<_> = bits.slice(start, end - start).set_slices().collect();
                slices
                    .into_iter()
                    .map(move |(from, to)| range.start + from as u64..range.start + to as u64)
            })
            .collect(),
    }
}

/// Clips ranges to the run, and joins those that overlap or almost touch.
fn widen(mut ranges: Vec<Range<u64>>, rows: u64) -> Vec<Range<u64>> {
    ranges.retain_mut(|range| {
        range.end = range.end.min(rows);
        range.start < range.end
    });
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start < last.end.saturating_add(GAP_ROWS) => {
                last.end = last.end.max(range.end);
            }
            Some(_) | None => joined.push(range),
        }
    }
    joined
}

/// Deals the rows of all runs out to at most `partitions_max` partitions of about the same size,
/// cut where row groups begin, so that no two partitions decode the same pages.
///
/// # Arguments
/// * `runs`: ranges per run, as [`select`] returns them.
/// * `limit`: rows that suffice.
///
/// # Returns
/// Partitions, none of them empty; none at all where there are no rows.
pub(super) fn partitions(
    runs: Vec<Vec<Range<u64>>>,
    partitions_max: usize,
    limit: Option<usize>,
) -> Vec<Vec<Piece>> {
    let all: u64 = runs
        .iter()
        .flatten()
        .map(|range| range.end - range.start)
        .sum();
    let total = limit.map_or(all, |limit| all.min(limit as u64));
    let count = total
        .div_ceil(PARTITION_ROWS_MIN)
        .clamp(1, partitions_max.max(1) as u64);
    let mut dealt = Dealt {
        total,
        count,
        rows: 0,
        place: None,
        partitions: Vec::new(),
    };
    for (index, ranges) in runs.into_iter().enumerate() {
        for range in ranges {
            dealt.push(index, range);
        }
    }
    dealt.partitions
}

struct Dealt {
    /// Rows to deal out.
    total: u64,
    /// Partitions to deal them to.
    count: u64,
    /// Rows dealt.
    rows: u64,
    /// Run and row group of the latest rows.
    place: Option<(usize, u64)>,
    partitions: Vec<Vec<Piece>>,
}

impl Dealt {
    fn push(&mut self, index: usize, range: Range<u64>) {
        let mut start = range.start;
        while start < range.end && self.rows < self.total {
            let group = start / ROW_GROUP_ROWS as u64;
            let group_end = (group + 1) * ROW_GROUP_ROWS as u64;
            let end = range
                .end
                .min(group_end)
                .min(start + (self.total - self.rows));
            if self.place != Some((index, group)) {
                self.place = Some((index, group));
                // Partition `n` begins with the first group at or after `n / count` of the rows.
                if self.rows * self.count >= self.partitions.len() as u64 * self.total {
                    self.partitions.push(Vec::new());
                }
            }
            self.append(index, start..end);
            self.rows += end - start;
            start = end;
        }
    }

    fn append(&mut self, index: usize, range: Range<u64>) {
        let Some(pieces) = self.partitions.last_mut() else {
            return;
        };
        match pieces.last_mut() {
            Some(piece) if piece.index == index => match piece.ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                Some(_) | None => piece.ranges.push(range),
            },
            Some(_) | None => {
                pieces.push(Piece {
                    index,
                    ranges: std::iter::once(range).collect(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: u64 = ROW_GROUP_ROWS as u64;

    #[test]
    fn selection_is_clipped_joined_over_small_gaps_and_live() {
        let live = LiveRows::except(100, [0, 5, 6, 50]);
        let check = |live: &LiveRows, selected: Option<&[Range<u64>]>, expected: &[Range<u64>]| {
            let selected = selected.map(<[_]>::to_vec);
            assert_eq!(select(live, 100, selected), expected);
        };
        check(&LiveRows::All, None, std::slice::from_ref(&(0..100)));
        check(&LiveRows::All, Some(&[]), &[]);
        check(
            &LiveRows::All,
            Some(&[1..2, 9..10, 30..40, 35..50, 98..200, 300..400]),
            &[1..10, 30..50, 98..100],
        );
        check(&LiveRows::All, Some(&[1..2, 10..11]), &[1..2, 10..11]);
        check(&live, None, &[1..5, 7..50, 51..100]);
        check(&live, Some(&[0..1, 4..8, 50..51]), &[1..5, 7..8]);
        assert!(select(&LiveRows::All, 0, None).is_empty());
    }

    #[test]
    fn partitions_are_cut_between_row_groups_and_none_is_empty() {
        let piece = |index, range: Range<u64>| Piece {
            index,
            ranges: vec![range],
        };
        assert!(partitions(vec![vec![], vec![]], 2, None).is_empty());
        assert_eq!(
            partitions(vec![vec![0..10], vec![3..5]], 4, None),
            [[piece(0, 0..10), piece(1, 3..5),]]
        );
        let large = vec![vec![0..3 * GROUP], vec![0..GROUP]];
        assert_eq!(
            partitions(large.clone(), 2, None),
            [
                vec![piece(0, 0..2 * GROUP)],
                vec![piece(0, 2 * GROUP..3 * GROUP), piece(1, 0..GROUP)],
            ]
        );
        assert_eq!(partitions(large.clone(), 1, None).len(), 1);
        assert_eq!(partitions(large, 64, None).len(), 4);
        let uneven = vec![vec![0..10, GROUP..2 * GROUP, 3 * GROUP..3 * GROUP + 10]];
        let dealt = partitions(uneven, 3, None);
        assert!(dealt.iter().all(|pieces| !pieces.is_empty()));
        assert_eq!(
            dealt.iter().flatten().map(Piece::rows).sum::<u64>(),
            GROUP + 20
        );
    }

    #[test]
    fn limit_cuts_rows_off_at_the_end() {
        let runs = vec![vec![0..10, 20..30], vec![0..GROUP]];
        let rows = |limit| {
            let dealt = partitions(runs.clone(), 2, Some(limit));
            dealt
                .iter()
                .flatten()
                .flat_map(|piece| piece.ranges.clone())
                .collect::<Vec<_>>()
        };
        assert!(rows(0).is_empty());
        assert_eq!(rows(15), [0..10, 20..25]);
        assert_eq!(rows(21), [0..10, 20..30, 0..1]);
        assert_eq!(rows(usize::MAX), [0..10, 20..30, 0..GROUP]);
    }
}
