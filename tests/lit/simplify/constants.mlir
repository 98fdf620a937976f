// RUN: athanor opt --passes simplify %s | FileCheck %s

// What f32 holds exactly is folded; a product that would be rounded is left to the device.
// CHECK: %[[C:.*]] = "nn.constant"() {value = 3.000000e+00 : f64} : () -> tensor<2xf32>
// CHECK: "nn.exp"
// CHECK-DAG: return %[[C]]
func.func @f() -> (tensor<2xf32>, tensor<2xf32>) {
  %1 = "nn.constant"() {value = 1.0 : f64} : () -> tensor<f32>
  %2 = "nn.broadcast"(%1) {dims = array<i64>} : (tensor<f32>) -> tensor<2xf32>
  %3 = "nn.constant"() {value = 2.0 : f64} : () -> tensor<2xf32>
  %4 = "nn.add"(%2, %3) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
  %5 = "nn.exp"(%2) : (tensor<2xf32>) -> tensor<2xf32>
  return %4, %5 : tensor<2xf32>, tensor<2xf32>
}
