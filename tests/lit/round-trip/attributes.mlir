// What is printed is read back to the same text, with every kind of attribute and every digit.
// RUN: athanor opt --passes '' %s -o %t/once.mlir
// RUN: athanor opt --passes '' %t/once.mlir | FileCheck %s --match-full-lines --strict-whitespace --check-prefix EXACT
// RUN: athanor opt --passes '' %t/once.mlir | FileCheck %s

// EXACT:module attributes {nn.level = "train", nn.mesh = {{\[\[}}"tp", 4], ["dp", 2]], nn.name = "tiny"} {
// CHECK: %arg0: tensor<2x3xf32> {nn.decay = true, nn.init = {normal = 2.000000e-02 : f64}, nn.name = "w", nn.role = "weight"} loc("a.yaml":3:7)
// CHECK: tensor<6xbf16> {nn.name = "y"}
// CHECK: %0 = "nn.constant"() {value = 0x7FF8000000000001 : f64} : () -> tensor<f32> loc(unknown)
// CHECK: %1 = "nn.constant"() {value = -0.000000e+00 : f64} : () -> tensor<f32> loc("model.embed")
// CHECK: %2 = "nn.constant"() {value = 1.000000e-01 : f64} : () -> tensor<f32> loc("model.norm"("a.yaml":12:3))
// CHECK: %3:2 = "nn.rope_table"() {inv_freq = array<f64: 1.000000e+00, 1.000000e-02, 0xFFF0000000000000>, scale = 1.000000e+00 : f64}
// CHECK: %4 = "nn.reduce"(%arg0) {dims = array<i64: 0, 1>, kind = "max"} : (tensor<2x3xf32>) -> tensor<f32>
// CHECK: %5 = "nn.cast"(%arg0) : (tensor<2x3xf32>) -> tensor<2x3xbf16>
// CHECK: %6 = "nn.reshape"(%5) : (tensor<2x3xbf16>) -> tensor<6xbf16>
module attributes {nn.level = "train", nn.mesh = [["tp", 4], ["dp", 2]], nn.name = "tiny"} {
  func.func @f(%w: tensor<2x3xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64},
                                    nn.decay = true} loc("a.yaml":3:7)) -> (tensor<6xbf16> {nn.name = "y"}) {
    %0 = "nn.constant"() {value = 0x7FF8000000000001 : f64} : () -> tensor<f32> loc(unknown)
    %1 = "nn.constant"() {value = -0.0 : f64} : () -> tensor<f32> loc("model.embed")
    %2 = "nn.constant"() {value = 0.1 : f64} : () -> tensor<f32> loc("model.norm"("a.yaml":12:3))
    %cos, %sin = "nn.rope_table"() {inv_freq = array<f64: 1.0, 0.01, 0xFFF0000000000000>, scale = 1.0 : f64}
      : () -> (tensor<5x3xf32>, tensor<5x3xf32>)
    %3 = "nn.reduce"(%w) {kind = "max", dims = array<i64: 0, 1>} : (tensor<2x3xf32>) -> tensor<f32>
    %4 = "nn.cast"(%w) : (tensor<2x3xf32>) -> tensor<2x3xbf16>
    %5 = "nn.reshape"(%4) : (tensor<2x3xbf16>) -> tensor<6xbf16>
    return %5 : tensor<6xbf16>
  }
}
