//! Columns by name. One list of names gives the text of a SELECT and the place of each name; one block of `name: value` gives an INSERT.
//!
//! Invariant: the place of a name is a constant of the build. An unknown name does not compile, and a row is read without a search.

use std::fmt;

/// The columns of a SELECT, as its text lists them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns(pub(super) &'static str);

impl Columns {
    /// The place of `name` in the list. Called through [`col!`], so that the compiler computes it.
    pub(super) const fn at(self, name: &str) -> usize {
        let (list, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut place, mut from) = (0, 0);
        while from < list.len() {
            while list[from] == b' ' {
                from += 1;
            }
            let mut length = 0;
            let mut is_same = true;
            while from + length < list.len() && list[from + length] != b',' {
                is_same = is_same && length < name.len() && list[from + length] == name[length];
                length += 1;
            }
            if is_same && length == name.len() {
                return place;
            }
            place += 1;
            from += length + 1;
        }
        panic!("no column of this name in the list");
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// `col!(VIEW.state)`: the place of the column `state` in the list `VIEW`.
macro_rules! col {
    ($list:ident.$name:ident) => {
        const { $list.at(stringify!($name)) }
    };
}

/// `insert!(connection, "INSERT INTO t" { a: 1, b: 2 } "ON CONFLICT DO NOTHING")`: writes one row, and gives how many were written.
macro_rules! insert {
    ($connection:expr, $into:literal { $first:ident: $value:expr $(, $column:ident: $more:expr)* $(,)? } $($rest:literal)?) => {
        $connection
            .prepare_cached(concat!(
                $into, " (", stringify!($first) $(, ", ", stringify!($column))*,
                ") VALUES (:", stringify!($first) $(, ", :", stringify!($column))*, ")" $(, " ", $rest)?
            ))?
            .execute(rusqlite::params![$value $(, $more)*])?
    };
}

pub(super) use {col, insert};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_at_its_place_by_its_whole_name() {
        const LIST: Columns = Columns("id, idle, i");
        assert_eq!([col!(LIST.id), col!(LIST.idle), col!(LIST.i)], [0, 1, 2]);
        assert_eq!(format!("SELECT {LIST} FROM t"), "SELECT id, idle, i FROM t");
    }
}
