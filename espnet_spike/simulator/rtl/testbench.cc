// Memory, reset and exit around ibex_sim_top.
//
//   sim FIRMWARE.elf IMAGE MAX_CYCLES DATA_WAIT INSTRUCTION_WAIT WEIGHTS STATE ACTIVATIONS
//
// The last three are addresses: where weights, state and activations start in the image, in this
// order. Loads and stores of the first two are counted, as are instruction fetches; the firmware
// reads the counts at kCounts.
// IMAGE is loaded at IMAGE_BASE and written back when the firmware exits. One line of JSON goes to
// standard output. The status is 0 when the firmware exited with 0.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "Vibex_sim_top.h"
#include "verilated.h"

namespace {

constexpr uint32_t kRamBase = 0x80000000u;
constexpr uint32_t kRamSize = 64u << 20;
constexpr uint32_t kImageBase = 0x80200000u;
constexpr uint32_t kExit = 0x10000000u;  // a store here ends the run with the value stored
constexpr uint32_t kCounts = 0x10000010u;

using Bytes = std::vector<uint8_t>;

[[noreturn]] void fail(const std::string& message) {
  fprintf(stderr, "%s\n", message.c_str());
  exit(2);
}

Bytes read_file(const char* path) {
  FILE* file = fopen(path, "rb");
  if (!file) fail(std::string("cannot read ") + path);
  Bytes bytes;
  uint8_t chunk[1 << 16];
  while (size_t n = fread(chunk, 1, sizeof chunk, file)) bytes.insert(bytes.end(), chunk, chunk + n);
  fclose(file);
  return bytes;
}

bool in_ram(uint32_t address) { return address - kRamBase < kRamSize; }

uint32_t word_at(const Bytes& bytes, size_t offset) {
  uint32_t word;
  memcpy(&word, &bytes.at(offset), 4);
  return word;
}

void load_elf(const Bytes& elf, Bytes& ram) {
  if (elf.size() < 52 || memcmp(elf.data(), "\177ELF\1", 5)) fail("not a 32-bit ELF file");
  const uint32_t headers = word_at(elf, 28);
  const uint32_t size = word_at(elf, 42) & 0xffff, count = word_at(elf, 42) >> 16;
  for (uint32_t i = 0; i < count; i++) {
    const size_t header = headers + i * size;
    const uint32_t type = word_at(elf, header), offset = word_at(elf, header + 4);
    const uint32_t address = word_at(elf, header + 12), length = word_at(elf, header + 16);
    if (type != 1 || length == 0) continue;
    if (!in_ram(address) || !in_ram(address + length - 1) || offset + length > elf.size())
      fail("a segment lies outside the memory");
    memcpy(&ram[address - kRamBase], &elf[offset], length);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 9)
    fail("usage: sim FIRMWARE.elf IMAGE MAX_CYCLES DATA_WAIT INSTRUCTION_WAIT WEIGHTS STATE ACTIVATIONS");
  const uint64_t max_cycles = strtoull(argv[3], nullptr, 0);
  const int data_wait = atoi(argv[4]), instr_wait = atoi(argv[5]);
  uint32_t starts[3], counts[3] = {0, 0, 0};  // of weights, state; words fetched
  for (int i = 0; i < 3; i++) starts[i] = strtoul(argv[6 + i], nullptr, 0);

  Bytes ram(kRamSize);
  load_elf(read_file(argv[1]), ram);
  const Bytes image = read_file(argv[2]);
  if (image.size() > kRamBase + kRamSize - kImageBase) fail("the image does not fit the memory");
  memcpy(&ram[kImageBase - kRamBase], image.data(), image.size());

  VerilatedContext context;
  context.commandArgs(argc, argv);
  Vibex_sim_top top{&context};
  top.boot_addr_i = kRamBase;
  top.clk_i = 0;
  // reset has to fall: the clock stands still while it is low from the start
  top.rst_ni = 1;
  top.eval();
  top.rst_ni = 0;
  top.eval();
  for (int i = 0; i < 4; i++) {
    top.clk_i = 1;
    top.eval();
    top.clk_i = 0;
    top.eval();
  }
  top.rst_ni = 1;
  top.instr_gnt_i = 1;
  top.data_gnt_i = 1;
  top.eval();

  uint64_t cycles = 0;
  int status = -1;
  int data_left = 0, instr_left = 0;  // cycles until the answer
  uint32_t data_read = 0, instr_read = 0;
  bool data_error = false, instr_error = false, done = false;
  const auto start = std::chrono::steady_clock::now();
  while (!done && cycles < max_cycles) {
    // requests are those before the clock's edge
    const bool instr_req = top.instr_req_o && top.instr_gnt_i;
    const bool data_req = top.data_req_o && top.data_gnt_i;
    const uint32_t instr_addr = top.instr_addr_o, data_addr = top.data_addr_o;
    const uint32_t data_write = top.data_wdata_o, be = top.data_be_o;
    const bool write = top.data_we_o;
    top.clk_i = 1;
    top.eval();
    cycles++;
    if (instr_req) {
      counts[2]++;
      instr_left = instr_wait + 1;
      instr_error = !in_ram(instr_addr);
      if (!instr_error) memcpy(&instr_read, &ram[instr_addr - kRamBase], 4);
    }
    if (data_req) {
      data_left = data_wait + 1;
      data_error = false;
      if (data_addr >= starts[0] && data_addr < starts[2]) counts[data_addr >= starts[1]]++;
      if (in_ram(data_addr)) {
        uint8_t* cell = &ram[data_addr - kRamBase];
        memcpy(&data_read, cell, 4);
        if (write) {
          const uint32_t mask = (be & 1 ? 0xffu : 0) | (be & 2 ? 0xff00u : 0) |
                                (be & 4 ? 0xff0000u : 0) | (be & 8 ? 0xff000000u : 0);
          const uint32_t merged = (data_read & ~mask) | (data_write & mask);
          memcpy(cell, &merged, 4);
        }
      } else if (data_addr - kCounts < sizeof counts && !write) {
        data_read = counts[(data_addr - kCounts) / 4];
      } else if (data_addr == kExit && write) {
        status = static_cast<int>(data_write);
        done = true;
      } else {
        data_error = true;
      }
    }
    top.instr_rvalid_i = instr_left && --instr_left == 0;
    top.instr_rdata_i = instr_read;
    top.instr_err_i = top.instr_rvalid_i && instr_error;
    top.data_rvalid_i = data_left && --data_left == 0;
    top.data_rdata_i = data_read;
    top.data_err_i = top.data_rvalid_i && data_error;
    if (instr_wait) top.instr_gnt_i = instr_left == 0;
    if (data_wait) top.data_gnt_i = data_left == 0;
    top.clk_i = 0;
    top.eval();
    if (top.double_fault_o) fail("double fault");
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  top.final();
  printf("{\"status\": %d, \"cycles\": %llu, \"seconds\": %.6f}\n", status,
         static_cast<unsigned long long>(cycles), seconds.count());
  if (!done) return 3;
  FILE* file = fopen(argv[2], "wb");
  if (!file || fwrite(&ram[kImageBase - kRamBase], 1, image.size(), file) != image.size() ||
      fclose(file))
    fail(std::string("cannot write ") + argv[2]);
  return status ? 1 : 0;
}
