use super::*;
use crate::report::{
    ClientFate, EventReport, Outcome, PendingReport, Phase, RunReport, SCHEMA, ScopeReport, Stamp, States,
};

fn detail(name: &str, clients: usize, progress: Vec<PendingReport>) -> RunDetail {
    let tally = LockTally { in_scope: 4, reclaimed: 2, dropped: 1, kept: 1, ..LockTally::default() };
    let client = |index: usize| ClientReport {
        name: format!("{name}{index}"),
        address: None,
        suspect: true,
        fate: ClientFate::Silent,
        notices: 1,
        acks: 1,
        attempts: 1,
        acked_ms: Some(120),
        locks: Some(tally),
        paths: Vec::new(),
        error: Some(format!("{name} \"quoted\" & <b>bold</b>")),
    };
    RunDetail {
        report: RunReport {
            schema: SCHEMA,
            run: RunHead {
                id: "af55e197-4ca5-417a-99fb-0dc179ef36bb".into(),
                manager: "nlmd".into(),
                mode: "strict".into(),
                scope: ScopeReport { clients: vec![name.to_owned()], ..ScopeReport::default() },
                outcome: Some(Outcome::Settled),
                phase: Phase::Done,
                started_at: Stamp(1_795_362_328_000),
                ended_at: Some(Stamp(1_795_362_333_000)),
                elapsed_ms: Some(5_000),
                exit: Some(3),
                reason: None,
                locks_listed: true,
            },
            state: States { old: Some(1), new: Some(3) },
            locks: tally,
            lost: Vec::new(),
            clients: (0..clients).map(client).collect(),
        },
        lock_rows: Vec::new(),
        events: vec![EventReport { at: Stamp(1_795_362_329_000), kind: "begin".into(), detail: name.to_owned() }],
        progress,
        shown: None,
    }
}

fn course() -> Vec<PendingReport> {
    vec![PendingReport { elapsed_ms: 0, pending: 4 }, PendingReport { elapsed_ms: 2_500, pending: 2 }]
}

#[test]
fn what_a_client_calls_itself_is_text_and_never_markup() {
    let page = page(&detail("<script>alert(1)</script>", 1, course())).unwrap();
    assert!(!page.contains("<script") && !page.contains("<b>bold"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
}

#[test]
fn what_became_of_the_locks_of_those_who_acked_is_said_only_where_it_is_known() {
    let plain = |locks: Option<LockTally>| {
        let mut detail = detail("c", 2, course());
        for client in &mut detail.report.clients {
            (client.fate, client.suspect, client.error, client.locks) = (ClientFate::Acked, false, None, locks);
        }
        page(&detail).unwrap()
    };
    let known = plain(Some(LockTally { in_scope: 2, reclaimed: 2, ..LockTally::default() }));
    assert!(known.contains("2 of them acked, and all their locks were reclaimed or released."));
    assert!(plain(None).contains("2 of them acked."));
}

#[test]
fn every_element_of_the_drawing_ends_where_the_next_one_begins() {
    let page = page(&detail("c1", 3, course())).unwrap();
    for element in ["line", "path", "text", "svg"] {
        let (opened, closed) =
            (page.matches(&format!("<{element} ")).count(), page.matches(&format!("</{element}>")).count());
        assert!(opened == closed && opened > 0, "{element}: {opened}, {closed}");
    }
}

#[test]
fn the_page_fetches_nothing() {
    let page = page(&detail("c1", 3, course())).unwrap();
    assert!(["http:", "https:", "src=", "href=", "url(", "@import"].iter().all(|word| !page.contains(word)), "{page}");
}

#[test]
fn the_curve_holds_each_value_until_the_next_look_and_goes_to_the_end() {
    let path = timeline::steps(&course(), 5_000, &timeline::Scale { time: 5_000.0, locks: 4.0 });
    let (left, middle, right) = (64.0, 64.0 + 936.0 / 2.0, 1_000.0);
    assert_eq!(path, format!("M{left:.1} 34.0H{middle:.1}V135.0H{right:.1}"));
}

#[test]
fn a_run_without_a_course_has_no_drawing_and_ten_thousand_clients_are_cut_with_a_word() {
    let page = page(&detail("c", 10_000, Vec::new())).unwrap();
    assert!(!page.contains("<svg"));
    assert!(page.contains("10000 clients") && page.contains("9000 more are in the record"), "the rest is named");
    assert!(page.len() < 1_000_000, "{}", page.len());
}
