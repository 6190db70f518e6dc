//! What a card would compile, compiled by NVRTC, which needs no card.
#![expect(unsafe_code, reason = "NVRTC is a C library")]

use std::{
    env,
    ffi::{CStr, CString, c_char, c_int, c_void},
    io::{self, Write},
    path::Path,
    ptr,
};

use super::{KERNELS, Precision, definition, emulator::Library, libraries::builtins, names};

type Program = *mut c_void;
type CreateFn = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const c_void,
    *const c_void,
) -> c_int;
type CompileFn = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type SizeFn = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type TextFn = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// Compiles all kernels; the PTX, or what NVRTC has against them.
fn compile(nvrtc: Library, options: [String; 2]) -> Result<String, String> {
    let source = CString::new(KERNELS.concat()).expect("text");
    let options = options.map(|option| CString::new(option).expect("text"));
    let options = options.each_ref().map(|option| option.as_ptr());
    // SAFETY: types as in `nvrtc.h` of CUDA 13.0; all pointers outlive the calls, and each text is
    // given as many bytes as NVRTC asks for.
    unsafe {
        let function = |name: &CStr| nvrtc.symbol(name);
        let create: CreateFn = std::mem::transmute(function(c"nvrtcCreateProgram"));
        let compile: CompileFn = std::mem::transmute(function(c"nvrtcCompileProgram"));
        let mut program = ptr::null_mut();
        let name = c"kernels.cu".as_ptr();
        assert_eq!(create(&mut program, source.as_ptr(), name, 0, ptr::null(), ptr::null()), 0);
        let text = |size: &CStr, text: &CStr| {
            let size: SizeFn = std::mem::transmute(function(size));
            let text: TextFn = std::mem::transmute(function(text));
            let mut bytes = 0;
            assert_eq!(size(program, &mut bytes), 0);
            let mut found = vec![0u8; bytes];
            assert_eq!(text(program, found.as_mut_ptr().cast()), 0);
            String::from_utf8_lossy(&found).trim_end_matches('\0').to_owned()
        };
        match compile(program, 2, options.as_ptr()) {
            0 => Ok(text(c"nvrtcGetPTXSize", c"nvrtcGetPTX")),
            _ => Err(text(c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")),
        }
    }
}

#[test]
fn nvrtc_compiles_every_kernel() {
    let Some(folder) = env::var_os("ROCLIP_NVRTC") else {
        let line =
            "skipped nvrtc_compiles_every_kernel: ROCLIP_NVRTC is not set (`cargo xtask test`";
        writeln!(io::stderr(), "{line} sets it)").expect("stderr is open"); // libtest hides `eprintln!`
        return;
    };
    let folder = Path::new(&folder);
    for path in builtins(folder).expect("NVRTC's other half") {
        Library::open(&path).expect("a library that was found");
    }
    let nvrtc = Library::open(&folder.join("libnvrtc.so.13")).expect("NVRTC");
    for target in ["sm_80", "sm_90"] {
        // down to machine code, which assembly is checked by
        for precision in [Precision::F32, Precision::Bf16] {
            let options =
                [format!("--gpu-architecture={target}"), definition(precision).to_owned()];
            let code = compile(nvrtc, options).unwrap_or_else(|log| panic!("{target}: {log}"));
            for name in names() {
                assert!(code.contains(&format!(".entry {name}(")), "{target}: no `{name}`");
            }
        }
    }
}
