// A Go reactor that speaks the okra ABI; the method's name says what it does, the input how much.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
	"unsafe"
)

var kept = map[uint32][]byte{}
var hoard [][]byte

func text(pointer, length uint32) string {
	return unsafe.String((*byte)(unsafe.Pointer(uintptr(pointer))), length)
}

//go:wasmexport allocate
func allocate(size uint32) uint32 {
	memory := make([]byte, size)
	pointer := uint32(uintptr(unsafe.Pointer(&memory[0])))
	kept[pointer] = memory
	return pointer
}

//go:wasmexport deallocate
func deallocate(pointer uint32) { delete(kept, pointer) }

//go:wasmexport handle_request
func handleRequest(method, methodLength, input, length uint32) uint64 {
	amount, _ := strconv.Atoi(text(input, length))
	answer := "true"
	switch text(method, methodLength) {
	case "echo":
		answer = text(input, length)
	case "bomb":
		for {
			block := make([]byte, 1<<20)
			for i := range block {
				block[i] = 1
			}
			hoard = append(hoard, block)
		}
	case "append":
		var numbers []int
		for {
			numbers = append(numbers, len(numbers))
		}
	case "panic":
		panic("as asked")
	case "exit":
		os.Exit(amount)
	case "loop":
		for i := 0; ; i++ {
			amount += i
		}
	case "sleep":
		time.Sleep(time.Duration(amount) * time.Millisecond)
	case "print":
		fmt.Println("a line of Go")
	}
	out := allocate(uint32(len(answer)))
	copy(kept[out], answer)
	return uint64(out)<<32 | uint64(len(answer))
}

func main() {}
