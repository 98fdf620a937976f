// RUN: athanor opt --passes simplify %s | FileCheck %s

// bf16 stores 257 as 256, so that widening it gives 256: what the type does not hold is not folded.
// CHECK-DAG: %[[K:.*]] = "nn.constant"() {value = 2.570000e+02 : f64} : () -> tensor<2xbf16>
// CHECK-DAG: %[[W:.*]] = "nn.cast"(%[[K]]) : (tensor<2xbf16>) -> tensor<2xf32>
// CHECK-DAG: %[[E:.*]] = "nn.constant"() {value = 2.560000e+02 : f64} : () -> tensor<2xf32>
// CHECK: return %[[W]], %[[E]]
func.func @f() -> (tensor<2xf32>, tensor<2xf32>) {
  %0 = "nn.constant"() {value = 257.0 : f64} : () -> tensor<2xbf16>
  %1 = "nn.cast"(%0) : (tensor<2xbf16>) -> tensor<2xf32>
  %2 = "nn.constant"() {value = 256.0 : f64} : () -> tensor<2xbf16>
  %3 = "nn.cast"(%2) : (tensor<2xbf16>) -> tensor<2xf32>
  return %1, %3 : tensor<2xf32>, tensor<2xf32>
}
