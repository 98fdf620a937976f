// RUN: athanor opt --passes fuse %s | FileCheck %s

// The gradient of a value that was cut into parts is their gradients side by side. Parts that overlap are added.
// CHECK-LABEL: func.func @f(
// CHECK-DAG: %[[PARTS:.*]] = builtin.unrealized_conversion_cast %arg0, %arg1, %arg2
// CHECK-DAG: %[[A:.*]] = "nn.concat"(%[[PARTS]]) {dim = 1 : i64}
// CHECK-DAG: "nn.add"(%{{.*}}, %{{.*}}) : (tensor<16x12xf32>, tensor<16x12xf32>)
// CHECK: return %[[A]]
func.func @f(%a: tensor<16x4xf32>, %b: tensor<16x6xf32>, %c: tensor<16x2xf32>)
    -> (tensor<16x12xf32> {nn.name = "whole"}, tensor<16x12xf32> {nn.name = "sum"}) {
  %z4 = "nn.constant"() {value = 0.0 : f64} : () -> tensor<16x4xf32>
  %z8 = "nn.constant"() {value = 0.0 : f64} : () -> tensor<16x8xf32>
  %z2 = "nn.constant"() {value = 0.0 : f64} : () -> tensor<16x2xf32>
  %z10 = "nn.constant"() {value = 0.0 : f64} : () -> tensor<16x10xf32>
  %z6 = "nn.constant"() {value = 0.0 : f64} : () -> tensor<16x6xf32>
  %t1 = builtin.unrealized_conversion_cast %a, %z8 : tensor<16x4xf32>, tensor<16x8xf32> to tuple<tensor<16x4xf32>, tensor<16x8xf32>>
  %0 = "nn.concat"(%t1) {dim = 1 : i64} : (tuple<tensor<16x4xf32>, tensor<16x8xf32>>) -> tensor<16x12xf32>
  %t2 = builtin.unrealized_conversion_cast %z4, %b, %z2 : tensor<16x4xf32>, tensor<16x6xf32>, tensor<16x2xf32> to tuple<tensor<16x4xf32>, tensor<16x6xf32>, tensor<16x2xf32>>
  %1 = "nn.concat"(%t2) {dim = 1 : i64} : (tuple<tensor<16x4xf32>, tensor<16x6xf32>, tensor<16x2xf32>>) -> tensor<16x12xf32>
  %t3 = builtin.unrealized_conversion_cast %z10, %c : tensor<16x10xf32>, tensor<16x2xf32> to tuple<tensor<16x10xf32>, tensor<16x2xf32>>
  %2 = "nn.concat"(%t3) {dim = 1 : i64} : (tuple<tensor<16x10xf32>, tensor<16x2xf32>>) -> tensor<16x12xf32>
  %3 = "nn.add"(%0, %1) : (tensor<16x12xf32>, tensor<16x12xf32>) -> tensor<16x12xf32>
  %4 = "nn.add"(%3, %2) : (tensor<16x12xf32>, tensor<16x12xf32>) -> tensor<16x12xf32>
  %5 = "nn.concat"(%z6, %b) {dim = 1 : i64} : (tensor<16x6xf32>, tensor<16x6xf32>) -> tensor<16x12xf32>
  %6 = "nn.add"(%1, %5) : (tensor<16x12xf32>, tensor<16x12xf32>) -> tensor<16x12xf32>
  return %4, %6 : tensor<16x12xf32>, tensor<16x12xf32>
}
