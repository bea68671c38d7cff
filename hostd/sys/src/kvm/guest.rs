//! The memory of the preflight's guest: its program, descriptors, page tables and gates.
//!
//! The guest walks the way every operating system walks at boot, so that what stops a real kernel stops it too. After
//! each step it writes the step's number to [`PORT`]; a result that is wrong ends in `hlt` without a number.

/// The guest's memory, in bytes, from guest address 0.
pub(super) const MEMORY: usize = 64 << 10;
/// Where the program starts, in real mode with all segments at 0.
pub(super) const ENTRY: u64 = 0x1000;
/// The port that takes the numbers of finished steps.
pub(super) const PORT: u16 = 0xe9;

const DESCRIPTORS: u16 = 0x2000;
const DESCRIPTORS_POINTER: u16 = 0x2100;
const GATES_POINTER: u16 = 0x2110;
const GATES: u16 = 0x3000;
const PAGE_MAP: u16 = 0x4000;
const PAGE_POINTERS: u16 = 0x5000;
const PAGE_DIRECTORY: u16 = 0x6000;
/// 16 bytes that `movaps` copies to the 16 bytes behind them; the counter of exceptions is at 0x7020, the stack ends
/// at 0x9000.
const DATA: u16 = 0x7000;

const CODE_64: u16 = 0x18;
const BREAKPOINT: (u16, u16) = (3, 0x10ce);
const INVALID_OPCODE: (u16, u16) = (6, 0x10d7);

/// Assembled for address [`ENTRY`].
#[rustfmt::skip]
pub(super) const PROGRAM: &[u8] = &[
    // Real mode: arithmetic with a known result, or halt without a word.
    0x31, 0xc0,                                          // xor ax, ax
    0x8e, 0xd8,                                          // mov ds, ax
    0xb8, 0x34, 0x12,                                    // mov ax, 0x1234
    0x05, 0x21, 0x43,                                    // add ax, 0x4321
    0x3d, 0x55, 0x55,                                    // cmp ax, 0x5555
    0x75, 0x16,                                          // jne fail16
    0xb0, 0x01,                                          // mov al, 1
    0xe6, 0xe9,                                          // out 0xe9, al
    // Into protected mode.
    0x0f, 0x01, 0x16, 0x00, 0x21,                        // lgdt [0x2100]
    0x0f, 0x20, 0xc0,                                    // mov eax, cr0
    0x0c, 0x01,                                          // or al, 1
    0x0f, 0x22, 0xc0,                                    // mov cr0, eax
    0xea,                                                // ljmp
    0x26, 0x10,                                          //   to `protected`,
    0x08, 0x00,                                          //   32-bit code descriptor
    0xf4,                                                // hlt
    // `protected`: flat 32-bit segments and a stack.
    0x66, 0xb8, 0x10, 0x00,                              // mov ax, 0x10
    0x8e, 0xd8,                                          // mov ds, ax
    0x8e, 0xc0,                                          // mov es, ax
    0x8e, 0xd0,                                          // mov ss, ax
    0xbc, 0x00, 0x90, 0x00, 0x00,                        // mov esp, 0x9000
    0xb0, 0x02,                                          // mov al, 2
    0xe6, 0xe9,                                          // out 0xe9, al
    // Into long mode: PAE and SSE on, page tables, EFER.LME, then paging on and FPU emulation off.
    0x0f, 0x20, 0xe0,                                    // mov eax, cr4
    0x0d, 0x20, 0x06, 0x00, 0x00,                        // or eax, 0x620
    0x0f, 0x22, 0xe0,                                    // mov cr4, eax
    0xb8, 0x00, 0x40, 0x00, 0x00,                        // mov eax, 0x4000
    0x0f, 0x22, 0xd8,                                    // mov cr3, eax
    0xb9, 0x80, 0x00, 0x00, 0xc0,                        // mov ecx, 0xc0000080
    0x0f, 0x32,                                          // rdmsr
    0x0d, 0x00, 0x01, 0x00, 0x00,                        // or eax, 0x100
    0x0f, 0x30,                                          // wrmsr
    0x0f, 0x20, 0xc0,                                    // mov eax, cr0
    0x83, 0xe0, 0xf3,                                    // and eax, 0xfffffff3
    0x0d, 0x02, 0x00, 0x00, 0x80,                        // or eax, 0x80000002
    0x0f, 0x22, 0xc0,                                    // mov cr0, eax
    0xea,                                                // ljmp
    0x6f, 0x10, 0x00, 0x00,                              //   to `long`,
    0x18, 0x00,                                          //   64-bit code descriptor
    0xbc, 0x00, 0x90, 0x00, 0x00,                        // mov esp, 0x9000
    // A 64-bit register holds 64 bits.
    0x48, 0xbb, 0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, // movabs rbx, 0x123456789abcdef0
    0x48, 0xc1, 0xeb, 0x20,                              // shr rbx, 32
    0x81, 0xfb, 0x78, 0x56, 0x34, 0x12,                  // cmp ebx, 0x12345678
    0x75, 0x43,                                          // jne fail
    0xb0, 0x03,                                          // mov al, 3
    0xe6, 0xe9,                                          // out 0xe9, al
    // Aligned SSE load and store, and the copy must be equal.
    0x0f, 0x01, 0x1c, 0x25, 0x10, 0x21, 0x00, 0x00,      // lidt [0x2110]
    0x0f, 0x28, 0x04, 0x25, 0x00, 0x70, 0x00, 0x00,      // movaps xmm0, [0x7000]
    0x0f, 0x29, 0x04, 0x25, 0x10, 0x70, 0x00, 0x00,      // movaps [0x7010], xmm0
    0x48, 0x8b, 0x04, 0x25, 0x08, 0x70, 0x00, 0x00,      // mov rax, [0x7008]
    0x48, 0x3b, 0x04, 0x25, 0x18, 0x70, 0x00, 0x00,      // cmp rax, [0x7018]
    0x75, 0x15,                                          // jne fail
    0xb0, 0x04,                                          // mov al, 4
    0xe6, 0xe9,                                          // out 0xe9, al
    // A trap and a fault, each through its gate and back.
    0xcc,                                                // int3
    0x0f, 0x0b,                                          // ud2
    0x83, 0x3c, 0x25, 0x20, 0x70, 0x00, 0x00, 0x02,      // cmp dword ptr [0x7020], 2
    0x75, 0x04,                                          // jne fail
    0xb0, 0x05,                                          // mov al, 5
    0xe6, 0xe9,                                          // out 0xe9, al
    0xf4,                                                // fail: hlt
    // `BREAKPOINT`: count and return.
    0xff, 0x04, 0x25, 0x20, 0x70, 0x00, 0x00,            // inc dword ptr [0x7020]
    0x48, 0xcf,                                          // iretq
    // `INVALID_OPCODE`: step over the two bytes of `ud2`, count and return.
    0x48, 0x83, 0x04, 0x24, 0x02,                        // add qword ptr [rsp], 2
    0xff, 0x04, 0x25, 0x20, 0x70, 0x00, 0x00,            // inc dword ptr [0x7020]
    0x48, 0xcf,                                          // iretq
];

/// All of the guest's memory, with `program` at [`ENTRY`].
pub(super) fn image(program: &[u8]) -> Vec<u8> {
    let mut memory = vec![0; MEMORY];
    let mut put = |at: u16, bytes: &[u8]| memory[usize::from(at)..][..bytes.len()].copy_from_slice(bytes);
    put(0x1000, program);

    // Flat segments: none, 32-bit code, data, 64-bit code.
    for (at, descriptor) in
        (DESCRIPTORS..).step_by(8).zip([0_u64, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00af_9b00_0000_ffff])
    {
        put(at, &descriptor.to_le_bytes());
    }
    put(DESCRIPTORS_POINTER, &pointer(4 * 8, DESCRIPTORS));

    // Interrupt gates of the two exceptions.
    for (vector, handler) in [BREAKPOINT, INVALID_OPCODE] {
        let gate = u64::from(handler) | u64::from(CODE_64) << 16 | 0x8e00 << 32;
        put(GATES + vector * 16, &gate.to_le_bytes());
    }
    put(GATES_POINTER, &pointer(7 * 16, GATES));

    // One 2 MiB page, mapped to itself.
    put(PAGE_MAP, &(u64::from(PAGE_POINTERS) | 0b11).to_le_bytes());
    put(PAGE_POINTERS, &(u64::from(PAGE_DIRECTORY) | 0b11).to_le_bytes());
    put(PAGE_DIRECTORY, &0b1000_0011_u64.to_le_bytes());

    put(DATA, b"berth preflight!");
    memory
}

/// The operand of `lgdt` and `lidt`: limit, then a base that is zero beyond its low 16 bits.
fn pointer(bytes: u16, base: u16) -> [u8; 10] {
    let mut pointer = [0; 10];
    pointer[..2].copy_from_slice(&(bytes - 1).to_le_bytes());
    pointer[2..4].copy_from_slice(&base.to_le_bytes());
    pointer
}
