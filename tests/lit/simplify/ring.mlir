// RUN: athanor opt --passes simplify %s | FileCheck %s

// Each of the product and its negative is cheapest as the negative of the other: one of them must still be computed.
// CHECK: %[[P:.*]] = "nn.einsum"
// CHECK-DAG: %[[N:.*]] = "nn.neg"(%[[P]])
// CHECK-DAG: "nn.exp"(%[[P]])
// CHECK-DAG: "nn.tanh"(%[[P]])
// CHECK-DAG: "nn.exp"(%[[N]])
// CHECK-DAG: "nn.tanh"(%[[N]])
// CHECK: return
func.func @f(%x: tensor<4x4xf32>) -> (tensor<4x4xf32>, tensor<4x4xf32>, tensor<4x4xf32>, tensor<4x4xf32>) {
  %p = "nn.einsum"(%x, %x) {spec = "ab,bc->ac"} : (tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32>
  %n = "nn.neg"(%p) : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %b = "nn.neg"(%n) : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %0 = "nn.exp"(%b) : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %1 = "nn.tanh"(%b) : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %2 = "nn.exp"(%n) : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %3 = "nn.tanh"(%n) : (tensor<4x4xf32>) -> tensor<4x4xf32>
  return %0, %1, %2, %3 : tensor<4x4xf32>, tensor<4x4xf32>, tensor<4x4xf32>, tensor<4x4xf32>
}
