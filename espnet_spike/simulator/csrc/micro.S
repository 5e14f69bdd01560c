/* One instruction many times, 64 and 128: the difference is its cost without call and return.
   a0 points to memory. */
  .option norvc
  .text

.macro repeat name, count, setup, instruction:vararg
  .balign 4
  .globl micro_\name\()_\count
  .type micro_\name\()_\count, @function
micro_\name\()_\count:
  li t1, 0x12345
  li t2, 0x777
  \setup
  .rept \count
  \instruction
  .endr
  ret
  .size micro_\name\()_\count, . - micro_\name\()_\count
.endm

.macro micro name, instruction:vararg
  repeat \name, 64, nop, \instruction
  repeat \name, 128, nop, \instruction
.endm

.macro load_use
  lw t0, 0(a0)
  add t3, t0, t0
.endm

  micro alu, add t0, t1, t2
  micro csr, csrr t0, 0xb00
  micro load, lw t0, 0(a0)
  micro store, sw t1, 0(a0)
  micro load_use, load_use
  micro load_misaligned, lw t0, 1(a0)
  micro store_misaligned, sw t1, 1(a0)
  micro mul, mul t0, t1, t2
  micro mulh, mulh t0, t1, t2
  micro div, div t0, t1, t2
  micro rem, rem t0, t1, t2
  micro div_by_zero, div t0, t1, zero
  micro branch_not_taken, bne zero, zero, .+4
  micro branch_taken, beq zero, zero, .+4
  micro jal, jal t0, .+4
