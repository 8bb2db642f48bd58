//! `lapwing ctl listeners`.

use super::Desk;
use super::link::Said;
use super::table::{Cell, Column, number, plain, size, table, text};

pub async fn run(desk: &Desk) -> Result<(), Said> {
    let columns: &[Column<'_>] = &[
        ("LISTENER", &|l| text(&l["name"])),
        ("OPEN AT", &|l| text(&l["urls"])),
        ("CONNECTIONS", &|l| match &l["connections_max"] {
            most if most.is_null() => number(&l["connections"]),
            most => Cell::Number(format!("{} of {}", plain(&l["connections"]), plain(most))),
        }),
        ("ACCEPTED", &|l| number(&l["accepted"])),
        ("REFUSED", &|l| number(&l["refused"])),
        ("MESSAGES IN", &|l| number(&l["messages_received"])),
        ("OUT", &|l| number(&l["messages_sent"])),
        ("BYTES IN", &|l| size(&l["bytes_received"])),
        ("OUT", &|l| size(&l["bytes_sent"])),
    ];
    desk.show("GET", "/listeners", &[], None, |answer| {
        table(columns, answer["items"].as_array().map_or(&[][..], Vec::as_slice))
    })
    .await
}
