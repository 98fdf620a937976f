// RUN: athanor opt --passes dce %s | FileCheck %s

// Functions are pure: a call whose result nobody reads goes; the function that was called stays in the module.
module attributes {nn.level = "kernel"} {
  // CHECK-LABEL: func.func @main(
  // CHECK: %[[A:.*]] = call @double(%arg0)
  // CHECK-NEXT: return %[[A]]
  func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
    %0 = func.call @double(%x) : (tensor<4xf32>) -> tensor<4xf32>
    %1 = func.call @double(%0) : (tensor<4xf32>) -> tensor<4xf32>
    return %0 : tensor<4xf32>
  }
  // CHECK-LABEL: func.func @double(
  // CHECK: "nn.add"
  func.func @double(%x: tensor<4xf32>) -> tensor<4xf32> {
    %0 = "nn.add"(%x, %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    return %0 : tensor<4xf32>
  }
}
