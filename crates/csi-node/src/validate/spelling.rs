//! What somebody may have meant.

/// The name that differs from `given` only in letter case or by two mistakes in typing at most.
pub fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = match given.chars().count() {
        0..=4 => 1,
        _ => 2,
    };
    names
        .into_iter()
        .filter(|name| *name != given)
        .map(|name| (distance(&given.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many characters have to be put in, taken out, replaced or swapped with their neighbour.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    if one.len().abs_diff(other.len()) > 2 {
        return usize::MAX;
    }
    let width = other.len() + 1;
    let mut rows = vec![0; (one.len() + 1) * width];
    let at = |row: usize, column: usize| row * width + column;
    for row in 0..=one.len() {
        for column in 0..=other.len() {
            let cost = if row == 0 || column == 0 {
                row + column
            } else {
                let same = usize::from(one[row - 1] != other[column - 1]);
                let mut cost = (rows[at(row - 1, column)] + 1)
                    .min(rows[at(row, column - 1)] + 1)
                    .min(rows[at(row - 1, column - 1)] + same);
                if row > 1
                    && column > 1
                    && one[row - 1] == other[column - 2]
                    && one[row - 2] == other[column - 1]
                {
                    cost = cost.min(rows[at(row - 2, column - 2)] + 1);
                }
                cost
            };
            rows[at(row, column)] = cost;
        }
    }
    rows[at(one.len(), other.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found_and_others_are_not() {
        let names = ["objectVersionHistory", "clientID", "tenantId", "objects"];
        for (given, near) in [
            ("objectVersionHistroy", Some("objectVersionHistory")),
            ("clientId", Some("clientID")),
            ("object", Some("objects")),
            ("tenant", Some("tenantId")),
            ("resourceGroup", None),
            ("objectSort", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, names), near, "{given}");
        }
        assert_eq!(nearest("objects", names), None);
    }
}
