package main

import (
	"regexp"
	"strconv"

	"counter/gen"
	"counter/gen/insula"
)

const (
	prefix   = "count/"
	mostKeys = 1000
)

var goodName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

type service struct{}

func (service) Increment(input *gen.IncrementRequest) (*gen.Count, error) {
	key, err := keyOf(input.Name)
	if err != nil {
		return nil, err
	}
	by := int64(1)
	if input.By != nil {
		by = *input.By
	}
	value, err := insula.State.Increment(key, by)
	if err != nil {
		return nil, err
	}
	insula.Log(insula.Debug, input.Name+" is "+strconv.FormatInt(value, 10))
	return count(key)
}

func (service) GetCount(input *gen.CounterRequest) (*gen.Count, error) {
	key, err := keyOf(input.Name)
	if err != nil {
		return nil, err
	}
	return count(key)
}

func (service) Reset(input *gen.ResetRequest) (*gen.Count, error) {
	key, err := keyOf(input.Name)
	if err != nil {
		return nil, err
	}
	stored, err := insula.State.Set(key, insula.JSON("0"), &insula.StateOptions{IfVersion: &input.IfVersion})
	if err != nil {
		return nil, err
	}
	return &gen.Count{Value: 0, Version: stored.Version}, nil
}

func (service) ListCounters(input *gen.ListRequest) ([]string, error) {
	names := []string{}
	for cursor := ""; ; {
		keys, next, err := insula.State.List(prefix+input.Prefix, 0, cursor)
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			names = append(names, key[len(prefix):])
		}
		if len(names) > mostKeys {
			return nil, insula.Fail(insula.OutOfRange, "more than "+strconv.Itoa(mostKeys)+" counters: ask for a longer prefix")
		}
		if cursor = next; cursor == "" {
			return names, nil
		}
	}
}

func keyOf(name string) (string, error) {
	if !goodName.MatchString(name) {
		return "", insula.Fail(insula.InvalidArgument, "a counter's name has 1 to 64 letters, digits, _ or -")
	}
	return prefix + name, nil
}

func count(key string) (*gen.Count, error) {
	stored, err := insula.State.Get(key)
	if err != nil || stored == nil {
		return &gen.Count{}, err
	}
	value, err := strconv.ParseInt(string(stored.Data), 10, 64)
	if err != nil {
		return nil, insula.Fail(insula.DataLoss, "the state holds no number")
	}
	return &gen.Count{Value: value, Version: stored.Version}, nil
}

func init() { gen.Serve(service{}) }

func main() {} // never run: the host calls the methods
