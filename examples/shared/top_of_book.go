// The best prices of a shared book, exactly: top_of_book NAME MARKET
//
// go run top_of_book.go NAME MARKET
// Prints the update id, the best bid and the best ask; exit status 1 with the reason if they cannot be read.
// Linux, standard library only. docs/shared-memory.md has the layout and the steps of a read.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"
)

const (
	bookMagic   = "LDCBOOK\x00"
	feederMagic = "LDCFEED\x00"
	version     = 1
	headBytes   = 256
	copyBytes   = 128
	lateNs      = 15_000_000
	futureNs    = 30_000_000
	attempts    = 1000
)

var (
	errFeederGone  = errors.New("FEEDER_GONE")
	errMalformed   = errors.New("MALFORMED")
	errNotLoaded   = errors.New("NOT_LOADED")
	errSuspended   = errors.New("SUSPENDED")
	errCrossed     = errors.New("CROSSED")
	errLeftHorizon = errors.New("LEFT_HORIZON")
	errTooOld      = errors.New("TOO_OLD")
	errBusy        = errors.New("BUSY")
)

// A region of another process, which may change it at any time.
type region struct {
	memory []byte
	levels int
	copies uint64
	feeder *os.File
}

type level struct{ price, quantity int64 }

type view struct {
	head     [copyBytes / 8]uint64
	bid, ask *level
}

func u32At(words []uint64, offset int) uint32 {
	return uint32(words[offset/8] >> (8 * (offset % 8)))
}

func isLocked(file *os.File) bool {
	lock := syscall.Flock_t{Type: syscall.F_RDLCK}
	err := syscall.FcntlFlock(file.Fd(), 36, &lock) // F_OFD_GETLK
	return err == nil && lock.Type != syscall.F_UNLCK
}

func nowNs() int64 {
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 7, uintptr(unsafe.Pointer(&now)), 0) // CLOCK_BOOTTIME
	return now.Nano()
}

func fileName(market string) string {
	var name strings.Builder
	for place, char := range []byte(market) {
		isPlain := char >= 'A' && char <= 'Z' || char >= 'a' && char <= 'z' || char >= '0' && char <= '9' ||
			strings.IndexByte("_-~", char) >= 0 || char == '.' && place > 0
		if isPlain {
			name.WriteByte(char)
		} else {
			fmt.Fprintf(&name, "%%%02X", char)
		}
	}
	return name.String() + ".book"
}

func open(share, market string) (*region, error) {
	base := os.Getenv("LDC_SHARED_FOLDER")
	if base == "" {
		base = fmt.Sprintf("/dev/shm/ldc-%d", os.Getuid())
	}
	feeder, err := os.Open(base + "/" + share + "/feeder")
	if err != nil {
		return nil, errFeederGone
	}
	said := make([]byte, 64)
	if count, _ := feeder.ReadAt(said, 0); count != 64 || string(said[:8]) != feederMagic ||
		binary.LittleEndian.Uint32(said[8:]) != version {
		return nil, errMalformed
	}
	if !isLocked(feeder) {
		return nil, errFeederGone
	}
	file, err := os.Open(base + "/" + share + "/" + fileName(market))
	if err != nil {
		return nil, errFeederGone
	}
	defer file.Close()
	about, err := file.Stat()
	if err != nil || about.Size() < headBytes {
		return nil, errMalformed
	}
	size := int(about.Size())
	memory, err := syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, errMalformed
	}
	head := memory[:headBytes]
	copies, levels := binary.LittleEndian.Uint32(head[16:]), int(binary.LittleEndian.Uint32(head[20:]))
	r := &region{memory, levels, uint64(copies), feeder}
	isSound := string(head[:8]) == bookMagic && binary.LittleEndian.Uint32(head[8:]) == version &&
		binary.LittleEndian.Uint32(head[12:]) == headBytes && copies >= 1 && copies <= 2 && levels >= 1 &&
		levels <= 50_000 && size == headBytes+int(copies)*r.copyBytes() &&
		binary.LittleEndian.Uint64(head[24:]) == uint64(size)
	if !isSound {
		return nil, errMalformed
	}
	if binary.LittleEndian.Uint64(head[32:]) != binary.LittleEndian.Uint64(said[16:]) {
		return nil, errFeederGone // left by a feeder before this one
	}
	return r, nil
}

func (r *region) copyBytes() int { return copyBytes + 32*r.levels }

// Atomic loads of Go are at least as strong as acquire.
func (r *region) load(offset int) uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&r.memory[offset : offset+8][0])))
}

func (r *region) take() (*view, error) {
	for attempt := 0; attempt < attempts; attempt++ {
		number := r.load(192)
		if number == 0 {
			return nil, errNotLoaded
		}
		start := headBytes + int(number%r.copies)*r.copyBytes()
		if r.load(start) != 2*number {
			continue
		}
		taken := &view{}
		for place := range taken.head {
			taken.head[place] = r.load(start + 8*place)
		}
		at := start + copyBytes
		bid := &level{int64(r.load(at)), int64(r.load(at + 8))}
		at += 16 * r.levels
		ask := &level{int64(r.load(at)), int64(r.load(at + 8))}
		if r.load(start) != 2*number {
			continue
		}
		words := taken.head[:]
		bids, asks := int(u32At(words, 104)), int(u32At(words, 108))
		if bids > r.levels || asks > r.levels || u32At(words, 96) > 18 || u32At(words, 100) > 18 || int64(words[1]) < 0 {
			return nil, errMalformed
		}
		if bids > 0 {
			taken.bid = bid
		}
		if asks > 0 {
			taken.ask = ask
		}
		for _, each := range []*level{taken.bid, taken.ask} {
			if each != nil && (each.price < 0 || each.quantity <= 0) {
				return nil, errMalformed
			}
		}
		return taken, nil
	}
	return nil, errBusy
}

func (r *region) read() (*view, error) {
	taken, err := r.take()
	heartbeat, proven, lease := int64(r.load(200)), int64(r.load(208)), int64(r.load(216))
	now := nowNs()
	isLate := heartbeat < now-lateNs || heartbeat > now+lateNs
	if r.load(224)>>32 != 0 || isLate && !isLocked(r.feeder) {
		return nil, errFeederGone
	}
	if err != nil {
		return nil, err
	}
	state, flags := u32At(taken.head[:], 60), u32At(taken.head[:], 56)
	isTooOld := lease != 0 && (lease < 0 || proven < now-lease || proven > now+futureNs)
	switch {
	case state == 2:
		return nil, errNotLoaded
	case state == 3:
		return nil, errSuspended
	case state != 1 && state != 4:
		return nil, errMalformed
	case isTooOld:
		return nil, errTooOld
	case state == 4:
		return nil, errCrossed
	case flags&8 != 0 && taken.bid == nil || flags&16 != 0 && taken.ask == nil:
		return nil, errLeftHorizon
	}
	return taken, nil
}

func decimal(units int64, scale int) string {
	digits := fmt.Sprintf("%0*d", scale+1, units)
	if scale == 0 {
		return digits
	}
	return digits[:len(digits)-scale] + "." + digits[len(digits)-scale:]
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintf(os.Stderr, "usage: %s NAME MARKET\n", os.Args[0])
		os.Exit(2)
	}
	r, err := open(os.Args[1], os.Args[2])
	var taken *view
	if err == nil {
		taken, err = r.read()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[2], err)
		os.Exit(1)
	}
	prices, quantities := int(u32At(taken.head[:], 96)), int(u32At(taken.head[:], 100))
	fmt.Print(taken.head[1])
	if taken.bid != nil {
		fmt.Printf(" bid %s %s", decimal(taken.bid.price, prices), decimal(taken.bid.quantity, quantities))
	}
	if taken.ask != nil {
		fmt.Printf(" ask %s %s", decimal(taken.ask.price, prices), decimal(taken.ask.quantity, quantities))
	}
	fmt.Println()
}
