//! schemathesis (PyPI) asks everything that the OpenAPI document allows, and what it does not, and finds nothing.

use std::{path::Path, process::Command};

use crate::support::{http::Http, program::Taskhost};

#[test]
fn schemathesis_finds_nothing() {
    let host = Taskhost::new();
    let (server, http) = Http::serve(&host, &[]);
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/serve/schemathesis.toml");
    let mut command = Command::new("schemathesis");
    command.current_dir(host.dir()).arg("--config-file").arg(config).arg("run").arg(format!("http://{}/v1/openapi.json", http.at));
    command.args(["--max-examples", "70", "--no-color", "--seed", "7"]);
    let Ok(output) = command.output() else {
        return eprintln!("NOT RUN: schemathesis is not installed here (`pip install schemathesis`)");
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert_eq!(http.get("/readyz").status, 200);
}
