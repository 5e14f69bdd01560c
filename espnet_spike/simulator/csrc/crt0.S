/* Start-up: trap table, stack, counters on, main, exit. */
  .section .vectors, "ax"
  .option norvc
  .rept 32
  j trap
  .endr
  j _start                      /* the core starts at boot address + 0x80 */

  .section .text.init, "ax"
  .globl _start
_start:
  .option push
  .option norelax
  la gp, __global_pointer$
  .option pop
  la sp, __stack_top
  la t0, __bss_start
  la t1, __bss_end
1:
  bgeu t0, t1, 2f
  sw zero, 0(t0)
  addi t0, t0, 4
  j 1b
2:
  csrwi 0x320, 0                /* mcountinhibit: all counters run */
  call main
  li t0, 0x10000000
  sw a0, 0(t0)
3:
  j 3b

trap:                           /* status 128 + cause */
  li t0, 0x10000000
  csrr t1, mcause
  addi t1, t1, 128
  sw t1, 0(t0)
4:
  j 4b
