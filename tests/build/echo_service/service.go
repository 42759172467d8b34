package main

import (
	"strconv"

	"echo/gen"
	"echo/gen/insula"
)

type service struct{}

func (service) Echo(input *gen.Everything) (*gen.Everything, error) { return input, nil }
func (service) Scalar(input *gen.Everything) (int64, error)         { return input.Big, nil }
func (service) List(input *gen.Everything) ([]gen.Mood, error)      { return input.Moods, nil }
func (service) Nested(input *gen.Everything) ([]gen.Address, error) { return input.Addresses, nil }
func (service) Text() (string, error)                               { return "1 two", nil }

func (service) Fail(input *gen.Failure) (bool, error) {
	if input.Code == 0 {
		return true, nil
	}
	return true, insula.Fail(insula.Code(input.Code), input.Message)
}

func (service) Host(input *gen.HostCall) (string, error) {
	value := ""
	if input.Value != nil {
		value = *input.Value
	}
	switch input.What {
	case "get":
		stored, err := insula.State.Get(input.Key)
		if err != nil {
			return "", err
		}
		if stored == nil {
			return "0 null 0 ", nil
		}
		return "1 " + string(stored.Data) + " " + strconv.FormatInt(stored.Version, 10) + " " + stored.LastModified, nil
	case "set":
		options := &insula.StateOptions{TTL: 1.5, IfVersion: insula.Some(int64(7)), IfAbsent: true}
		stored, err := insula.State.Set(input.Key, insula.JSON(value), options)
		if err != nil {
			return "", err
		}
		return strconv.FormatInt(stored.Version, 10), nil
	case "delete":
		return "done", insula.State.Delete(input.Key, nil)
	case "increment":
		sum, err := insula.State.Increment(input.Key, -5)
		return strconv.FormatInt(sum, 10), err
	case "list":
		keys, text, err := insula.State.List(input.Key, 3, value)
		for _, key := range keys {
			text += " " + key
		}
		return text, err
	case "context":
		context, err := insula.Context()
		if err != nil {
			return "", err
		}
		text := string(context.Principal) + context.Deadline + context.Traceparent + context.IdempotencyKey
		for _, pair := range context.Metadata {
			text += pair[0] + pair[1]
		}
		return text, nil
	case "header":
		return "done", insula.SetHeader(input.Key, value)
	case "trailer":
		return "done", insula.SetTrailer(input.Key, value)
	case "now":
		now, err := insula.Now()
		return strconv.FormatInt(now.UnixMs, 10) + " " + now.Timezone + " " + now.ISO8601, err
	case "sleep":
		return "done", insula.Sleep(20)
	case "env":
		text, found, err := insula.Env(input.Key)
		if !found && err == nil {
			text = "not set"
		}
		return text, err
	case "call":
		output, err := insula.CallService(input.Key, "greet", insula.JSON(value))
		return string(output), err
	case "log":
		return "done", insula.Log(insula.Warn, input.Key)
	case "raw":
		output, err := insula.Host("okra.cache", "get", insula.JSON(value))
		return string(output), err
	case "ignored":
		_, _ = insula.State.Get(input.Key)
	}
	return "done", nil
}

func init() { gen.Serve(service{}) }
func main() {}
