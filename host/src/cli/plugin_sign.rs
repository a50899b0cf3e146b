//! `plugin keygen|sign|verify`: keys and signatures in minisign's format.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{
    failure::Failure,
    output::{self, Sink},
};
use crate::ops::{self, Trust};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost plugin keygen deploy        # makes deploy.key and deploy.pub")]
pub(super) struct KeygenArgs {
    /// The name of the two files: NAME.key is secret, NAME.pub is for the workers' trust file
    name: PathBuf,
    /// Encrypt the secret key with the first line of this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost plugin sign plugins/math.wasm --key deploy.key")]
pub(super) struct SignArgs {
    /// The plugins; the signature of each is written beside it, as NAME.wasm.minisig
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Its password: the first line of this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost plugin verify plugins/math.wasm --trust deploy.pub")]
pub(super) struct VerifyArgs {
    /// The plugins; each needs its signature beside it
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The public keys to trust
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
}

pub(super) fn keygen(args: &KeygenArgs) -> Result<(), Failure> {
    let (secret, public) = ops::keygen(password(args.password_file.as_deref())?).map_err(Failure::Failed)?;
    let end = |end: &str| {
        let mut path = args.name.as_os_str().to_owned();
        path.push(end);
        PathBuf::from(path)
    };
    let (key, pub_) = (end(".key"), end(".pub"));
    if pub_.exists() {
        return Err(Failure::Usage(format!("there is a key of that name already, choose another: `{}`", pub_.display())));
    }
    write_new(&key, &secret, 0o600)?;
    write_new(&pub_, &public, 0o644)?;
    output::note(&format!("taskhost: {} is secret: keep it off the workers; {} is for their trust file", key.display(), pub_.display()));
    output::told(public.trim_end())
}

pub(super) fn sign(args: &SignArgs) -> Result<(), Failure> {
    let secret = std::fs::read_to_string(&args.key).map_err(|error| cannot("read the secret key", &args.key, &error))?;
    let password = password(args.password_file.as_deref())?;
    let mut sink = Sink::default();
    let went = sign_each(args, &secret, password.as_ref(), &mut sink);
    sink.end(went)
}

fn sign_each(args: &SignArgs, secret: &str, password: Option<&String>, sink: &mut Sink) -> Result<(), Failure> {
    for file in &args.files {
        let bytes = std::fs::read(file).map_err(|error| cannot("read the plugin", file, &error))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let signature = ops::sign(secret, password.cloned(), &bytes, &format!("file:{name}")).map_err(Failure::Failed)?;
        let path = ops::signature_path(file);
        // A worker must never see half a signature.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut new =
            tempfile::Builder::new().prefix(".sign-").tempfile_in(parent).map_err(|error| cannot("write beside", file, &error))?;
        new.write_all(signature.as_bytes()).map_err(|error| cannot("write the signature", &path, &error))?;
        let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        new.as_file().set_permissions(open).map_err(|error| cannot("write the signature", &path, &error))?;
        new.persist(&path).map_err(|error| cannot("write the signature", &path, &error.error))?;
        sink.line(&path.display().to_string());
    }
    Ok(())
}

pub(super) fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let trust = Trust::read(&args.trust).map_err(Failure::Usage)?;
    let mut bad = Vec::new();
    // All plugins are checked before the command ends, because its exit code is the answer.
    let mut sink = Sink::default();
    for file in &args.files {
        let bytes = std::fs::read(file).map_err(|error| cannot("read the plugin", file, &error))?;
        match ops::read_signature(file).and_then(|signature| trust.check(&bytes, &signature)) {
            Ok(key) => sink.line(&format!("{}: signed by {key}", file.display())),
            Err(why) => bad.push(format!("{}: {why}", file.display())),
        }
    }
    sink.end(if bad.is_empty() { Ok(()) } else { Err(Failure::Failed(bad.join("\n"))) })
}

fn password(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file).map_err(|error| cannot("read the password", file, &error))?;
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(Some(line.to_owned())),
        None => Err(Failure::Usage(format!("the first line is the password, and it is empty: `{}`", file.display()))),
    }
}

/// Never overwrites a key.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let written =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| cannot("write the key", path, &error))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Usage(format!("cannot {what} ({error}): `{}`", path.display()))
}
