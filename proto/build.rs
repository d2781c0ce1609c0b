//! Compiles the control messages with protox, which needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=src/wire/vchat.proto");
    let files = protox::compile(["src/wire/vchat.proto"], ["src/wire"])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
