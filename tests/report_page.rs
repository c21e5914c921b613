//! The page of a run (`runs report`) as a browser shows it: on a phone and on a desk, light, dark and in print.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const PAGE: &str = include_str!("golden/run-page.html");
/// CSS pixels: a phone of today held upright, and a window on a desk.
const WIDTHS: [u32; 2] = [390, 1280];

/// Runs the browser without a window and without any host but this one.
fn browser(folder: &Path, flags: &[String], page: &Path) -> String {
    let mut command = Command::new("timeout");
    command.args(["120", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
    command.args(["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-dev-shm-usage"]);
    command.arg(format!("--user-data-dir={}", folder.join("profile").display()));
    let out = command.args(flags).arg(format!("file://{}", page.display())).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// What a script sees of the page in a frame of that width: the page's own width, and the colour behind it.
fn seen_at(width: u32, dark: bool) -> (u32, String) {
    let folder = TempDir::new().unwrap();
    let frame = folder.path().join("frame.html");
    let inner = PAGE.replace('&', "&amp;").replace('"', "&quot;");
    let script = "const d=f.contentDocument.documentElement;\
                  r.textContent=d.scrollWidth+';'+getComputedStyle(d.ownerDocument.body).backgroundColor";
    let text = format!(
        "<!DOCTYPE html><iframe id=f width={width} height=900 style=\"border:0\" srcdoc=\"{inner}\"></iframe>\
         <p id=r></p><script>f.onload=()=>{{{script}}}</script>"
    );
    fs::write(&frame, text).unwrap();
    let mut flags = vec!["--dump-dom".to_owned(), "--virtual-time-budget=2000".to_owned()];
    if dark {
        flags.push("--blink-settings=preferredColorScheme=0".to_owned());
    }
    let dom = browser(folder.path(), &flags, &frame);
    let (_, said) = dom.rsplit_once("<p id=\"r\">").unwrap();
    let (width, colour) = said.split_once("</p>").unwrap().0.split_once(';').unwrap();
    (width.parse().unwrap(), colour.to_owned())
}

/// Where pictures go for people to look at. docs/report.png is the wide one.
fn kept(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    folder.join(name)
}

#[test]
#[ignore = "needs Chromium"]
fn the_page_is_never_wider_than_the_window() {
    for width in WIDTHS {
        assert_eq!(seen_at(width, false).0, width);
    }
}

#[test]
#[ignore = "needs Chromium"]
fn the_page_is_dark_for_a_reader_who_wants_it_dark() {
    let [light, dark] = [false, true].map(|dark| seen_at(WIDTHS[1], dark).1);
    assert_eq!((light.as_str(), dark.as_str()), ("rgb(255, 255, 255)", "rgb(20, 25, 31)"));
}

#[test]
#[ignore = "needs Chromium"]
fn the_page_is_drawn_and_printed() {
    let folder = TempDir::new().unwrap();
    let page = folder.path().join("run.html");
    fs::write(&page, PAGE).unwrap();
    for width in WIDTHS {
        let picture = kept(&format!("run-{width}.png"));
        let flags = [format!("--screenshot={}", picture.display()), format!("--window-size={width},1400")];
        browser(folder.path(), &flags, &page);
        // A blank picture of this size has a few kilobytes.
        assert!(fs::metadata(&picture).unwrap().len() > 30_000, "{}", picture.display());
    }
    let paper = kept("run.pdf");
    browser(folder.path(), &[format!("--print-to-pdf={}", paper.display())], &page);
    let pdf = fs::read(&paper).unwrap();
    assert!(pdf.starts_with(b"%PDF-"));
    // Its text is there as text: fonts are embedded.
    assert!(pdf.windows(9).any(|at| at == b"/FontFile"), "{}", paper.display());
}
