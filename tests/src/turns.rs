//! Whose turn it is when several are compared on a machine that is not always the same.

/// The order of one round: the reference at both ends, so that the two tell how steady the round was, and the others
/// between them. From round to round the others go through every place, forwards and backwards.
#[must_use]
pub fn order<T: Copy + PartialEq>(round: usize, reference: T, all: &[T]) -> Vec<T> {
    let mut others: Vec<T> = all.iter().copied().filter(|one| *one != reference).collect();
    let places = others.len().max(1);
    others.rotate_left(round / 2 % places);
    if round % 2 == 1 {
        others.reverse();
    }
    let end = all.contains(&reference).then_some(reference);
    end.into_iter().chain(others).chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_at_both_ends_and_every_other_once_between() {
        for round in 0..10 {
            let order = order(round, 'b', &['a', 'b', 'c', 'd']);
            assert_eq!((order.len(), order[0], order[4]), (5, 'b', 'b'), "round {round}");
            let mut others = order[1..4].to_vec();
            others.sort_unstable();
            assert_eq!(others, ['a', 'c', 'd'], "round {round}");
        }
    }

    #[test]
    fn everybody_comes_to_every_place() {
        for place in 1..4 {
            for one in ['a', 'c', 'd'] {
                let is_there = |round| order(round, 'b', &['a', 'b', 'c', 'd'])[place] == one;
                assert!((0..6).any(is_there), "{one} never came to place {place}");
            }
        }
    }

    #[test]
    fn without_the_reference_everybody_has_one_turn() {
        assert_eq!(order(0, 'b', &['a']), ['a']);
        assert_eq!(order(0, 'b', &['b']), ['b', 'b']);
        assert_eq!(order(1, 'b', &['a', 'c']), ['c', 'a']);
    }
}
