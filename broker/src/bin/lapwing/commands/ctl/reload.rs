//! `lapwing ctl reload`.

use super::link::Said;
use super::{Desk, table};

pub async fn run(desk: &Desk) -> Result<(), Said> {
    desk.show("POST", "/reload", &[], None, |answer| {
        let restart: Vec<String> =
            answer["restart"].as_array().into_iter().flatten().map(table::plain).collect();
        match restart.is_empty() {
            true => "reloaded\n".to_owned(),
            false => {
                format!("reloaded; these changes take effect with the next start: {}\n", restart.join(", "))
            }
        }
    })
    .await
}
